"""Runs: where one is, which pods it has had, what state it is in, a table of several."""
