"""Runs on a terminal: numbers, tables, lines, and the live screen."""
