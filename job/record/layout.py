"""Names of runs, and of the objects that a run writes: everything else under a run is foreign."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from typing import NamedTuple

FORM = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
RULE = "a run id is of a-z, 0-9 and -, at most 64"
CODE = "code"
"""Folder of a network, loss or metric of one's own: its files, by their SHA-256."""
DOCUMENTS = re.compile(
    r"(latest|lease|status|result|spec|pods|boots|cancel)\.json|report\.html|probe-[0-9a-f]{32}"
    r"|code/[0-9a-f]{64}"
)
MODEL, STATE, MANIFEST = "model.safetensors", "state.safetensors", "manifest.json"
CHECKPOINT_FILES = (MANIFEST, STATE, MODEL)
"""Of one checkpoint, in the order in which they are deleted: no half of one looks whole."""
CHECKPOINT = re.compile(r"checkpoints/(0|[1-9][0-9]{0,17})-([1-9][0-9]{0,17})")
SEGMENT = re.compile(r"([0-9]{6,18})-([0-9]{12,18})-([0-9]{12,18})-([0-9a-f]{16})\.jsonl")


def new_run_id() -> str:
    """A run id that sorts by time, and that no other run of the same second has."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


class CheckpointFolder(NamedTuple):
    """What the name of a checkpoint's folder says."""

    name: str
    """Key below the run, `checkpoints/<step>-<lease epoch>`."""
    step: int
    """Steps taken."""
    epoch: int
    """Lease epoch of the writer."""

    @classmethod
    def named(cls, name: str) -> CheckpointFolder | None:
        """From a folder's name; None for a name that no run gives."""
        match = CHECKPOINT.fullmatch(name)
        return cls(name, int(match[1]), int(match[2])) if match else None

    @classmethod
    def of_file(cls, name: str) -> CheckpointFolder | None:
        """The folder of a checkpoint's file; None for a name that no run gives."""
        folder, _, file = name.rpartition("/")
        return cls.named(folder) if file in CHECKPOINT_FILES else None


def is_ours(name: str) -> bool:
    """True if a run gives such a name to an object; name: its key below the run."""
    folder, _, file = name.rpartition("/")
    of_events = folder == "events" and SEGMENT.fullmatch(file) is not None
    of_run = DOCUMENTS.fullmatch(name) is not None
    return of_run or of_events or CheckpointFolder.of_file(name) is not None
