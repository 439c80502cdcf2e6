"""What torchrun tells the processes that it starts."""

from __future__ import annotations

from collections.abc import Mapping


def under_torchrun(environment: Mapping[str, str]) -> bool:
    """Whether it started this process. WORLD_SIZE alone says nothing: RunPod presets it."""
    return "TORCHELASTIC_RUN_ID" in environment


def rank_of(environment: Mapping[str, str]) -> int:
    """The process's place among all that train together; 0 where it trains alone."""
    return int(environment["RANK"]) if under_torchrun(environment) else 0
