"""Balancing methods on five data sets, beside a network for each task and beside peers."""
