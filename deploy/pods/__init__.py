"""Pods of a run: rented, watched until they show signs of life, followed to their end."""
