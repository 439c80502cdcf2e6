"""The head of a run made anew from what lies in the store, where it is gone or damaged."""

from __future__ import annotations

import hashlib

from job.document import Body, Damaged, unseal
from job.head import Head, Kept
from job.history import valid_segments
from job.store import Store


def rebuilt(store: Store, run: str) -> Head | None:
    """A head that names every checkpoint with an intact manifest, newest first.

    None where the run has no checkpoint; raises Damaged where none of its manifests is intact.
    """
    keys = [
        entry.key
        for entry in store.list(f"{run}/checkpoints/")
        if entry.key.endswith("/manifest.json")
    ]
    if not keys:
        return None
    fences = _fences(store, run)
    last = max(fences.values(), default=0)
    found = [
        (kept, manifest)
        for kept, manifest in (_read(store, run, key) for key in keys)
        # One that was not published yet may be ahead of the stored events, or of a fenced process.
        if manifest and manifest["next_seq"] - 1 <= fences.get(manifest["lease_epoch"], last)
    ]
    if not found:
        raise Damaged(f"no checkpoint of run {run} has an intact manifest")
    found.sort(key=lambda item: item[0].step, reverse=True)
    scored = [kept for kept, _ in found if kept.score is not None]
    return Head(
        epoch=max([*fences, *(manifest["lease_epoch"] for _, manifest in found)]),
        spec_hash=found[0][1]["spec_hash"],
        checkpoints=[kept for kept, _ in found],
        best=min(scored, key=lambda kept: kept.score or 0.0, default=None),
        fences=fences,
    )


def _fences(store: Store, run: str) -> dict[int, int]:
    """By lease epoch, the last seq that counts."""
    found = valid_segments(store, run, {})
    epochs = range(1, max((segment.epoch for segment in found), default=0) + 1)
    return {e: max((s.last for s in found if s.epoch <= e), default=0) for e in epochs}


def _read(store: Store, run: str, key: str) -> tuple[Kept, Body | None]:
    data = store.get(key).data
    folder = key.removeprefix(f"{run}/").removesuffix("/manifest.json")
    try:
        manifest = unseal(data, key)
    except Damaged:
        return Kept(folder=folder, step=0, manifest=""), None
    digest = hashlib.sha256(data).hexdigest()
    score = manifest["score"]
    return Kept(folder=folder, step=manifest["step"], manifest=digest, score=score), manifest
