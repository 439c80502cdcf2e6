"""The head of a run (`latest.json`): the one document that decides what of the run counts.

Everything else is written first, under keys that no other writer uses, and counts only once the
head names it. The head is replaced by compare-and-swap and carries its writer's lease epoch, so a
process that lost its lease can neither publish nor, afterwards, delete.
"""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import BaseModel, ConfigDict

from job.document import Body, Damaged, Document, Fenced, unseal
from job.store import Store


class Kept(BaseModel):
    """A checkpoint that the head names."""

    model_config = ConfigDict(frozen=True)

    folder: str
    """Key below the run, `checkpoints/<step>-<lease epoch>`."""
    step: int
    """Steps it holds."""
    manifest: str
    """SHA-256 of its manifest.json."""
    score: float | None = None
    """Validation score, where the spec keeps the best."""


class Head(BaseModel):
    """What counts of a run."""

    epoch: int
    """Lease epoch of the writer."""
    spec_hash: str
    """SHA-256 of the spec's content."""
    checkpoints: list[Kept] = []
    """Newest first."""
    best: Kept | None = None
    """The best one, where the spec keeps it."""
    fences: dict[int, int] = {}
    """By former lease epoch, the last seq of its events that counts."""
    finished: dict[str, Any] | None = None
    """Once the run has ended: reason and exit code."""

    def named(self) -> set[str]:
        """Folders of all checkpoints that it names."""
        return {kept.folder for kept in [*self.checkpoints, self.best] if kept is not None}


class HeadDocument:
    """The head in the store."""

    def __init__(self, store: Store, run: str, fenced: bool) -> None:
        self.document = Document(store, f"{run}/latest.json", fenced)
        self._body: Head | None = None

    @property
    def body(self) -> Head:
        """What was last read or written."""
        assert self._body is not None
        return self._body

    def read(self) -> Head | None:
        """The head, None before the first; raises Damaged."""
        found = self.document.read()
        self._body = None if found is None else Head.model_validate(_plain(found))
        return self._body

    def write(self, body: Head) -> None:
        """Replace it; raises Fenced where another process has, or where its epoch is higher."""
        if self._body is not None and self._body.epoch > body.epoch:
            raise Fenced(f"the run's lease epoch is {self.body.epoch}, this process's {body.epoch}")
        self.document.write({"schema": 1, **body.model_dump(mode="json")})
        self._body = body


def delete_checkpoint(store: Store, run: str, folder: str) -> None:
    """Remove a checkpoint, its manifest first, so that no half of one looks whole."""
    for file in ("manifest.json", "state.safetensors", "model.safetensors"):
        store.delete(f"{run}/{folder}/{file}")


def rebuilt(store: Store, run: str) -> Head | None:
    """A head from what lies in the store, where the head itself is gone or damaged.

    It names every checkpoint with an intact manifest, newest first; None where there is none.
    """
    found: list[tuple[int, str, Kept]] = []
    for entry in store.list(f"{run}/checkpoints/"):
        if not entry.key.endswith("/manifest.json"):
            continue
        data = store.get(entry.key).data
        try:
            manifest = unseal(data, entry.key)
        except Damaged:
            continue
        kept = Kept(
            folder=entry.key.removeprefix(f"{run}/").removesuffix("/manifest.json"),
            step=manifest["step"],
            manifest=hashlib.sha256(data).hexdigest(),
            score=manifest["score"],
        )
        found.append((manifest["lease_epoch"], manifest["spec_hash"], kept))
    if not found:
        return None
    found.sort(key=lambda item: item[2].step, reverse=True)
    epoch = max(epoch for epoch, _, _ in found)
    return Head(epoch=epoch, spec_hash=found[0][1], checkpoints=[kept for _, _, kept in found])


def _plain(found: Body) -> Body:
    return {key: value for key, value in found.items() if key not in ("schema", "nonce")}
