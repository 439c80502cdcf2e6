"""Alarms: what a run says of its data at the start, and of its training after each epoch."""
