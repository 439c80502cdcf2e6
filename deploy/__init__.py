"""Renting GPUs: the part that runs on the user's machine. It never loads torch."""
