"""Runs in a store, in real processes, and what must hold at their end."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

from job.record.history import read_document, read_history
from job.record.run_index import RunIndexStore
from job.store import Store, open_store
from tests.support.command import job
from tests.support.hold import Hold
from tests.support.tiny_job import STEPS, write
from tests.support.warm_process import Nursery, Process

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
EVERYTHING: dict[str, Any] = SPEC | {
    "optimizer": {"kind": "muon", "lr": 0.01, "head_lr": 0.02, "rates": {"*bias*": 0.03}},
    "model.freeze": ["*_reverse"],
    "train.batch_size": 4,
    "train.accumulate": {"steps": 2},
    "train.warmup": 7,
    "train.schedule": {"kind": "plateau", "task": "kind", "patience": 1, "factor": 0.7},
    "train.ema": {"decay": 0.9},
}
"""The same with every part of training that has a state or a position; as many steps."""
QUICK = {"job.store.s3_client:READ_SECONDS": 1, "job.store.s3_client:CONNECT_SECONDS": 1}
"""Patches with which a process gives up sooner on a silent server."""


PROGRESS = ("step", "epoch", "predictions", "test")
"""Kinds of events that nothing that disturbs a run may change."""


class Run:
    """One run of one spec."""

    def __init__(self, nursery: Nursery, spec: Path, url: str, run_id: str = "r") -> None:
        self.nursery, self.spec, self.url, self.run_id = nursery, spec, url, run_id
        self.key = f"small/{run_id}"

    def start(self, *options: str, **circumstances: Any) -> Process:
        """A process that begins the run, or goes on with it."""
        return self.nursery.start(
            "run", self.spec, "--store", self.url, "--run-id", self.run_id, "--json", *options,
            **circumstances,
        )  # fmt: skip

    def start_held(self, step: int, *options: str, **circumstances: Any) -> tuple[Process, Hold]:
        """The same; it waits after this step until the hold is released."""
        hold = Hold(Path(mkdtemp(dir=self.nursery.folder)))
        return self.start(*options, hold=(hold.place, step), **circumstances), hold

    def interrupted(self, step: int) -> Run:
        """This run, stopped by SIGTERM after this step."""
        process, hold = self.start_held(step, "--grace", "3600")
        hold.interrupt(process)
        assert process.wait() == 75, process.err
        return self

    @cached_property
    def store(self) -> Store:
        return open_store(self.url)

    @property
    def named(self) -> set[str]:
        """Folders of the checkpoints that count."""
        head = RunIndexStore(self.store, self.key, fenced=False).read()
        return head.named() if head else set()

    def history(self, superseded: bool = False) -> list[Line]:
        return read_history(self.store, self.key, superseded)

    def alarms(self) -> dict[str, str]:
        """Messages of the run's alarms, by kind."""
        return {e["kind"]: e["message"] for e in self.history() if e["event"] == "alarm"}

    def result(self) -> Line | None:
        return read_document(self.store, self.key, "result.json")

    def end(self) -> End:
        """What is compared at its end."""
        result = self.result()
        assert result is not None
        folder = f"{self.key}/{result['checkpoint']}"
        return End(
            self.store.get(f"{folder}/model.safetensors").data,
            self.store.get(f"{folder}/state.safetensors").data,
            [_timeless(e) for e in self.history() if e["event"] in PROGRESS],
        )


class End(NamedTuple):
    """What two runs of one spec must have in common, bit by bit."""

    model: bytes
    state: bytes
    progress: list[Line]
    """The events of PROGRESS, in their order."""


def _timeless(event: Line) -> Line:
    """The event without what depends on the clock."""
    timed = {"ts", "seq", "run_id", "step_ms", "seconds", "samples_per_second", "checkpoint_age"}
    return {name: value for name, value in event.items() if name not in timed}


class Undisturbed(NamedTuple):
    """A run that nothing disturbed."""

    spec: Path
    end: End


def undisturbed(nursery: Nursery, folder: Path, edits: dict[str, Any] | None = None) -> Undisturbed:
    """Run the spec in a fresh interpreter. edits: of the small spec; None: SPEC."""
    run = Run(nursery, write(folder, edits or SPEC), str(folder / "store"))
    done = job(folder, "run", str(run.spec), "--store", run.url, "--run-id", run.run_id, "--json")
    assert done.returncode == 0, done.stderr
    return Undisturbed(run.spec, run.end())


def assert_whole(run: Run, finished: int = 1) -> None:
    """Its history has no gap, and every step and epoch once; the store holds nothing else."""
    everything = run.history(superseded=True)
    assert [e["seq"] for e in everything] == list(range(1, len(everything) + 1))
    history = run.history()
    for kind, count in (("step", EPOCHS * STEPS), ("epoch", EPOCHS)):
        assert [e[kind] for e in history if e["event"] == kind] == list(range(1, count + 1))
    assert [e["event"] for e in history].count("run.finished") == finished
    store = run.store
    entries = [entry.key.removeprefix(f"{run.key}/") for entry in store.list(f"{run.key}/")]
    stored = {"/".join(key.split("/")[:2]) for key in entries if key.startswith("checkpoints/")}
    assert stored == run.named
    assert store.abort_uploads(f"{run.key}/") == 0


def assert_undisturbed(run: Run, reference: Undisturbed) -> None:
    """The run has ended as if nothing had disturbed it."""
    end = run.end()
    assert end.progress == reference.end.progress
    assert end.model == reference.end.model
    assert end.state == reference.end.state
    assert_whole(run)
