"""Training: the step, the loop, what they measure, and the alarms."""
