"""The run index (`latest.json`): the one document that decides what of a run counts.

Everything else is written first, under keys that no other writer uses, and counts only once the
index names it. The index is replaced by compare-and-swap and carries its writer's lease epoch, so a
process that lost its lease can neither publish nor, afterwards, delete.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from job.events import RunFinished
from job.record.document import HIGHEST_EPOCH, Contents, Document, Fenced
from job.record.layout import CHECKPOINT, CHECKPOINT_FILES
from job.record.result import Result, result_of
from job.spec import JobSpec
from job.store import Store


class Kept(BaseModel):
    """A checkpoint that the index names."""

    model_config = ConfigDict(frozen=True)

    folder: Annotated[str, Field(pattern=f"^{CHECKPOINT.pattern}$")]
    """Key below the run, `checkpoints/<step>-<lease epoch>`."""
    step: int
    """Steps that it holds."""
    manifest: str
    """SHA-256 of its manifest.json."""
    score: float | None = None
    """Validation score, if the spec keeps the best checkpoint."""


class About(BaseModel):
    """What a list of runs shows of one that has ended, beside its result."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    label: str = ""
    notes: str = ""
    origin: str = ""
    """The run that it began with or goes on with, as its spec names it."""
    ended: datetime
    """UTC."""

    @classmethod
    def of(cls, spec: JobSpec) -> About:
        """Of a run of this spec that ends now."""
        origin = next(iter(spec.named_runs.values()), "")
        texts = {"label": spec.label or "", "notes": spec.notes or "", "origin": origin}
        return cls(**texts, ended=datetime.now(UTC))


class RunIndex(Contents):
    """What counts of a run."""

    FILE: ClassVar[str] = "latest.json"

    epoch: Annotated[int, Field(ge=0, le=HIGHEST_EPOCH)]
    """Lease epoch of the writer."""
    spec_hash: str
    """SHA-256 of the spec's content."""
    checkpoints: list[Kept] = []
    """Newest first."""
    best: Kept | None = None
    """The one with the best score, if the spec keeps it."""
    fences: dict[int, int] = {}
    """By former lease epoch, its last event that counts; see Fences."""
    finished: Result | None = None
    """How the run ended; None before that."""
    about: About | None = None
    """Of a run that has ended; None in older records."""

    def named(self) -> set[str]:
        """Folders of all checkpoints that the index names."""
        return {kept.folder for kept in [*self.checkpoints, self.best] if kept is not None}

    def back_to(self, kept: Kept) -> RunIndex:
        """The index without the checkpoints that are newer than one of its own."""
        older = [other for other in self.checkpoints if other.step < kept.step]
        best = self.best if self.best and self.best.step <= kept.step else None
        return self.model_copy(update={"checkpoints": [kept, *older], "best": best})

    def settled(self, epoch: int, last: int) -> RunIndex:
        """The index of a new writer: events up to `last` count, and of earlier epochs no other."""
        fences = dict(self.fences)
        if epoch > 1:
            fences.setdefault(epoch - 1, last)
        return self.model_copy(update={"epoch": epoch, "fences": fences})

    def ended(self, run_id: str, event: RunFinished, about: About | None = None) -> RunIndex:
        """The index with the run's end, which `result.json` repeats."""
        newest = self.checkpoints[0].folder if self.checkpoints else None
        result = result_of(event, run_id, self.spec_hash, newest)
        return self.model_copy(update={"finished": result, "about": about})


class Fences:
    """Until which event each lease epoch counts.

    An epoch without a fence of its own has that of the next higher epoch: no process of it wrote
    anything that counts beyond. So epochs that were skipped take no memory, however many they are.
    """

    def __init__(self, fences: Mapping[int, int]) -> None:
        self._fences, self._epochs = fences, sorted(fences)

    def last(self, epoch: int) -> int | None:
        """The last event of an epoch that counts; None if the epoch is not over."""
        place = bisect_left(self._epochs, epoch)
        return self._fences[self._epochs[place]] if place < len(self._epochs) else None

    @property
    def highest(self) -> int:
        """The last event of all epochs that are over; 0 if there is none."""
        return max(self._fences.values(), default=0)


class RunIndexStore:
    """The run index in the store."""

    def __init__(self, store: Store, run: str, fenced: bool) -> None:
        self.store, self.run = store, run
        self.document = Document(store, RunIndex.key(run), fenced)
        self._body: RunIndex | None = None

    @property
    def body(self) -> RunIndex:
        """The index that was last read or written."""
        assert self._body is not None
        return self._body

    def read(self) -> RunIndex | None:
        """The index as it is now; None before the first. Raises Damaged."""
        self._body = RunIndex.of(self.document)
        return self._body

    def write(self, body: RunIndex) -> None:
        """Replace the index; raises Fenced if another process has, or if its epoch is higher."""
        if self._body is not None and self._body.epoch > body.epoch:
            raise Fenced(f"the run's lease epoch is {self.body.epoch}, this process's {body.epoch}")
        self.document.write(body.body())
        self._body = body


class LocalRun(NamedTuple):
    """A run in a store that is a directory."""

    root: str
    """The store's folder."""
    name: str
    """The job's."""
    run_id: str

    @property
    def run(self) -> str:
        """Key of the run in its store."""
        return f"{self.name}/{self.run_id}"


def folder_of_run(path: str) -> LocalRun | None:
    """The run whose folder a path is; None for any other path."""
    if not Path(path, "latest.json").is_file():
        return None
    *root, name, run_id = Path(path).resolve().parts
    return LocalRun(str(Path(*root)), name, run_id)


def delete_checkpoint(store: Store, run: str, folder: str) -> None:
    """Remove a checkpoint's files, the manifest first, so that no half of one looks whole."""
    for file in CHECKPOINT_FILES:
        store.delete(f"{run}/{folder}/{file}")
