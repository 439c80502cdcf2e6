"""Runs in a store, started as real processes, and what must hold of them at the end."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from job.head import HeadDocument
from job.history import read_document, read_history
from job.store import Store, open_store
from tests.command import job
from tests.nursery import Nursery, Process
from tests.small import STEPS, write

Line = dict[str, Any]

EPOCHS = 12
SPEC: dict[str, Any] = {
    "train.epochs": EPOCHS,
    "checkpoint.every_steps": 3,
    "checkpoint.lease_seconds": 2,
    "balance": {"kind": "gradient_norm"},
}
"""Edits of the small spec: a checkpoint every few steps, in mid-epoch too, and every part of the
state in use: dropout's generator, the balancer's and the optimizer's averages, a transform."""
QUICK = {"job.store_s3:READ_SECONDS": 1, "job.store_s3:CONNECT_SECONDS": 1}
"""Patches of a process that need not wait long for a silent server."""


class Run:
    """One run of one spec."""

    def __init__(self, nursery: Nursery, spec: Path, url: str, run_id: str = "r") -> None:
        self.nursery, self.spec, self.url, self.run_id = nursery, spec, url, run_id
        self.key = f"small/{run_id}"

    def start(self, *options: str, **circumstances: Any) -> Process:
        """A process that runs it, or goes on with it."""
        return self.nursery.start(
            "run", self.spec, "--store", self.url, "--run-id", self.run_id, "--json", *options,
            **circumstances,
        )  # fmt: skip

    @cached_property
    def store(self) -> Store:
        return open_store(self.url)

    @property
    def named(self) -> set[str]:
        """The checkpoints that count."""
        head = HeadDocument(self.store, self.key, fenced=False).read()
        return head.named() if head else set()

    def history(self, superseded: bool = False) -> list[Line]:
        return read_history(self.store, self.key, superseded)

    def alarms(self) -> dict[str, str]:
        """What the run has told of, by kind."""
        return {e["kind"]: e["message"] for e in self.history() if e["event"] == "alarm"}

    def result(self) -> Line | None:
        return read_document(self.store, self.key, "result.json")

    def end(self) -> End:
        """How it ended."""
        result = self.result()
        assert result is not None
        folder = f"{self.key}/{result['checkpoint']}"
        return End(
            self.store.get(f"{folder}/model.safetensors").data,
            self.store.get(f"{folder}/state.safetensors").data,
            [_timeless(e) for e in self.history() if e["event"] in ("step", "epoch")],
        )


class End(NamedTuple):
    """What two runs of one spec must have in common, bit by bit."""

    model: bytes
    state: bytes
    told: list[Line]
    """Steps and epochs, in their order."""


def _timeless(event: Line) -> Line:
    """Without what the clock has a say in."""
    timed = {"ts", "seq", "run_id", "step_ms", "seconds", "samples_per_second", "checkpoint_age"}
    return {name: value for name, value in event.items() if name not in timed}


class Undisturbed(NamedTuple):
    """A run that nothing happened to."""

    spec: Path
    end: End


def undisturbed(nursery: Nursery, folder: Path) -> Undisturbed:
    """Run it, in a fresh interpreter."""
    run = Run(nursery, write(folder, SPEC), str(folder / "store"))
    done = job(folder, "run", str(run.spec), "--store", run.url, "--run-id", run.run_id, "--json")
    assert done.returncode == 0, done.stderr
    return Undisturbed(run.spec, run.end())


def assert_whole(run: Run, finished: int = 1) -> None:
    """Its history has no hole and tells every step and epoch once; the store holds no litter."""
    everything = run.history(superseded=True)
    assert [e["seq"] for e in everything] == list(range(1, len(everything) + 1))
    told = run.history()
    for kind, count in (("step", EPOCHS * STEPS), ("epoch", EPOCHS)):
        assert [e[kind] for e in told if e["event"] == kind] == list(range(1, count + 1))
    assert [e["event"] for e in told].count("run.finished") == finished
    store = run.store
    entries = [entry.key.removeprefix(f"{run.key}/") for entry in store.list(f"{run.key}/")]
    stored = {"/".join(key.split("/")[:2]) for key in entries if key.startswith("checkpoints/")}
    assert stored == run.named
    assert store.abort_uploads(f"{run.key}/") == 0


def assert_undisturbed(run: Run, reference: Undisturbed) -> None:
    """It has ended as if nothing had happened."""
    end = run.end()
    assert end.told == reference.end.told
    assert end.model == reference.end.model
    assert end.state == reference.end.state
    assert_whole(run)
