"""Causes inside the network, most of them in networks of one's own; one in each file."""
