"""The head of a run (`latest.json`): the one document that decides what of the run counts.

Everything else is written first, under keys that no other writer uses, and counts only once the
head names it. The head is replaced by compare-and-swap and carries its writer's lease epoch, so a
process that lost its lease can neither publish nor, afterwards, delete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from job.document import Body, Document, Fenced
from job.events import RunFinished, fields
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

    def back_to(self, kept: Kept) -> Head:
        """Without what is newer than one of its checkpoints, because that is damaged."""
        older = [other for other in self.checkpoints if other.step < kept.step]
        best = self.best if self.best and self.best.step <= kept.step else None
        return self.model_copy(update={"checkpoints": [kept, *older], "best": best})

    def ended(self, run_id: str, event: RunFinished) -> Head:
        """With the end, as `result.json` will tell it."""
        result = {"run_id": run_id, "spec_hash": self.spec_hash, **fields(event)}
        del result["event"]
        result["checkpoint"] = self.checkpoints[0].folder if self.checkpoints else None
        return self.model_copy(update={"finished": result})


class HeadDocument:
    """The head in the store."""

    def __init__(self, store: Store, run: str, fenced: bool) -> None:
        self.store, self.run = store, run
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


class Here(NamedTuple):
    """A run in a store that is a directory."""

    root: str
    """The store."""
    name: str
    run_id: str

    @property
    def run(self) -> str:
        """Its key in the store."""
        return f"{self.name}/{self.run_id}"


def folder_of_run(path: str) -> Here | None:
    """The run whose folder a path is; None where it is none."""
    if not Path(path, "latest.json").is_file():
        return None
    *root, name, run_id = Path(path).resolve().parts
    return Here(str(Path(*root)), name, run_id)


def delete_checkpoint(store: Store, run: str, folder: str) -> None:
    """Remove a checkpoint, its manifest first, so that no half of one looks whole."""
    for file in ("manifest.json", "state.safetensors", "model.safetensors"):
        store.delete(f"{run}/{folder}/{file}")


def _plain(found: Body) -> Body:
    return {key: value for key, value in found.items() if key not in ("schema", "nonce")}
