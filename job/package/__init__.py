"""A run as files that other programs load."""
