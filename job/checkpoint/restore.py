"""Restoring a run's state: the newest checkpoint that is intact, as tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from job.checkpoint.reader import read
from job.record.document import Damaged
from job.record.layout import CHECKPOINT_FILES, MODEL
from job.record.manifest import Manifest
from job.record.run_index import Kept, RunIndex
from job.store import Corrupt, Missing, Store


class Restored(NamedTuple):
    """A verified checkpoint."""

    kept: Kept
    manifest: Manifest
    tensors: dict[str, Tensor]


def restore(
    store: Store, run: str, index: RunIndex, damaged: Callable[[Kept, str], None]
) -> Restored | None:
    """The newest checkpoint that is intact; None if the index names no checkpoint.

    `damaged` is called with each one that is not, and why. Raises Damaged if none is intact.
    """
    candidates = list(index.checkpoints)
    if index.best is not None and index.best.folder not in {k.folder for k in candidates}:
        candidates.append(index.best)
    candidates.sort(key=lambda kept: kept.step, reverse=True)
    for kept in candidates:
        try:
            return load(store, run, kept)
        except (Damaged, Missing, Corrupt) as fault:
            damaged(kept, str(fault))
    if candidates:
        names = ", ".join(kept.folder for kept in candidates)
        raise Damaged(f"no checkpoint of run {run} is intact; tried {names}")
    return None


def restore_weights(store: Store, run: str, kept: Kept) -> Restored:
    """Of a checkpoint what a prediction needs; raises Damaged, Missing, StoreError."""
    return load(store, run, kept, (MODEL,))


def load(store: Store, run: str, kept: Kept, files: tuple[str, ...] = CHECKPOINT_FILES) -> Restored:
    """A checkpoint, verified by the hashes of index and manifest; raises Damaged, StoreError."""
    manifest, contents = read(store, run, kept)
    tensors: dict[str, Tensor] = {}
    for file, pieces in contents.items():
        if file not in files:
            continue
        try:
            tensors |= safetensors.torch.load(b"".join(pieces))
        except SafetensorError as fault:
            raise Damaged(f"{run}/{kept.folder}/{file}: {fault}") from fault
    return Restored(kept, manifest, tensors)
