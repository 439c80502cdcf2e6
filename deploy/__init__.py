"""Renting GPUs: what runs on the user's machine. It never loads torch."""
