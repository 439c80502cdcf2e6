"""Rebuilding a run index that is gone or damaged, from the checkpoints' manifests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from job.record.document import Damaged
from job.record.history import counting_segments
from job.record.layout import MANIFEST, CheckpointFolder
from job.record.manifest import Manifest, read_manifest
from job.record.run_index import Fences, Kept, RunIndex
from job.record.segments import Segment
from job.store import Missing, Store


def rebuild_index(store: Store, run: str) -> RunIndex | None:
    """An index that names every checkpoint with an intact manifest, newest first.

    Returns None if the run has no checkpoint; raises Damaged if none of its manifests is intact.
    """
    folders = checkpoint_folders(store, run, MANIFEST)
    if not folders:
        return None
    intact = [found for folder in folders if (found := _read(store, run, folder)) is not None]
    if not intact:
        raise Damaged(f"no checkpoint of run {run} has an intact manifest")
    fences = _fences(counting_segments(store, run, {}))
    # One that was not published yet may be ahead of the stored events, or of a fenced process. If
    # all are, the events were lost, and any state is better than none.
    published = [each for each in intact if _is_published(each[1], Fences(fences))] or intact
    published.sort(key=lambda each: each[0].step, reverse=True)
    kept = [each for each, _ in published]
    scored = [each for each in kept if each.score is not None]
    return RunIndex(
        epoch=max([*fences, *(manifest.lease_epoch for _, manifest in published)]),
        spec_hash=published[0][1].spec_hash,
        checkpoints=kept,
        best=min(scored, key=lambda each: each.score or 0.0, default=None),
        fences=fences,
    )


def checkpoint_folders(store: Store, run: str, file: str = "") -> list[CheckpointFolder]:
    """The folders of the run's checkpoints, whole or not; with `file`, those that hold it.

    What others have put beside them is passed over.
    """
    names = (entry.key.removeprefix(f"{run}/") for entry in store.list(f"{run}/checkpoints/"))
    found = {
        folder
        for name in names
        if (folder := CheckpointFolder.of_file(name)) is not None and name.endswith(file)
    }
    return sorted(found)


def _is_published(manifest: Manifest, fences: Fences) -> bool:
    """True if every event of the checkpoint's past is stored and counts."""
    last = fences.last(manifest.lease_epoch)
    return manifest.next_seq - 1 <= (fences.highest if last is None else last)


def _fences(segments: Iterable[Segment]) -> dict[int, int]:
    """By lease epoch that wrote events, the last event that counts."""
    fences: dict[int, int] = {}
    last = 0
    for segment in sorted(segments, key=lambda segment: segment.order):
        last = max(last, segment.last)
        fences[segment.epoch] = last
    return fences


def _read(store: Store, run: str, folder: CheckpointFolder) -> tuple[Kept, Manifest] | None:
    """A checkpoint as the index names it, and its manifest; None if that is damaged."""
    key = f"{run}/{folder.name}/{MANIFEST}"
    try:
        data = store.get(key).data
        manifest = read_manifest(data, key)
    except (Damaged, Missing):
        return None
    digest = hashlib.sha256(data).hexdigest()
    kept = Kept(folder=folder.name, step=manifest.step, manifest=digest, score=manifest.score)
    return kept, manifest
