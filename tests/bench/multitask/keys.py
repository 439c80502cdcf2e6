"""The names of the results' lines."""

from __future__ import annotations


def run_key(problem: str, method: str, seed: int) -> str:
    """Of a method, or of a peer."""
    return f"{problem}: {method}, seed {seed}"


def alone_key(problem: str, task: str, seed: int) -> str:
    """Of the network of one task."""
    return f"{problem}: {task} alone, seed {seed}"


def search_key(problem: str) -> str:
    """Of the search that tunes the plain sum."""
    return f"{problem}: search"


def starved_key(weighting: str, seed: int) -> str:
    """Of the setting in which a peer's balancer starves a task."""
    return f"starved: {weighting}, seed {seed}"
