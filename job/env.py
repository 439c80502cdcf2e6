"""What the job reads from its environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

LIVENESS_FILE = "EVENGRAD_HEARTBEAT"
"""Path of the liveness file; a trainer with this variable has a supervisor."""
CACHE = "EVENGRAD_CACHE"
"""Folder for what is kept on the local disk: shards from S3, arrays from Parquet files."""
POD_KEY = "RUNPOD_API_KEY"
"""The key with which a pod may delete itself; only the supervisor needs it."""


def under_torchrun(environment: Mapping[str, str]) -> bool:
    """True if torchrun started this process. RunPod presets WORLD_SIZE, so that proves nothing."""
    return "TORCHELASTIC_RUN_ID" in environment


def rank_of(environment: Mapping[str, str]) -> int:
    """The rank of this process among those that train together; 0 if it trains alone."""
    return int(environment["RANK"]) if under_torchrun(environment) else 0


def liveness_path(environment: Mapping[str, str]) -> Path | None:
    """Path of the liveness file of a supervised trainer; None for any other."""
    path = environment.get(LIVENESS_FILE)
    return Path(path) if path else None


def cache_folder(environment: Mapping[str, str]) -> Path:
    """The folder of EVENGRAD_CACHE, else the user's."""
    if given := environment.get(CACHE):
        return Path(given)
    caches = environment.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "evengrad"


def own_pod(environment: Mapping[str, str]) -> str | None:
    """Id of the RunPod pod that this process runs in; None elsewhere."""
    return environment.get("RUNPOD_POD_ID") or None
