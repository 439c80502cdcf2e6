"""The causes that keep a task from learning, one in each file."""
