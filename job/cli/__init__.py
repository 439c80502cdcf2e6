"""The commands of `python -m job`, one a file."""
