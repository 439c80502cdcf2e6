"""PID 1 of the container: starts the trainer, and ends the pod."""
