"""The record of a run against its length: what the next step costs, and what readers cost.

A tiny job trains an epoch; its events are then written again and again with rising steps, by the
writers of a run: events as segments, checkpoints, and a new process that takes it over and goes
back to the newest checkpoint every so many steps, as on machines that are taken away.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from pydantic import BaseModel

from job.checkpoint.restore import restore
from job.checkpoint.writer import CheckpointInfo, CheckpointWriter
from job.cli.earlier_events import earlier_events
from job.compare.kept import outcome
from job.events import Epoch, Step, Superseded
from job.events.log import EventLog, Line
from job.export.__main__ import write as export
from job.record.claim import Claim, claim
from job.record.history import Tail, counting_backwards
from job.record.pods import RunRef
from job.record.segments import EventUploader
from job.report.page import report
from job.run.started import started
from job.runs.find import find_run
from job.runs.rows import read_rows
from job.store import Store
from job.store.base import Entry
from job.store.directory import DirectoryStore
from job.supervise.conclude import conclude
from job.train.trainer import Trainer
from tests.bench.scale.cost import Costs, cost
from tests.bench.scale.jobs import loaded

SIZES = (10_000, 40_000, 160_000, 640_000)
"""Steps."""
SEGMENT, EPOCH, ATTEMPT, LOST = 150, 500, 5_000, 100
"""Steps of a segment (3 s of 20 ms), of an epoch and of its checkpoint, of an attempt; steps that
an attempt took after its last checkpoint."""
ID = "r"
RUN = f"scale/{ID}"
LAST = 4
"""Of the last checkpoints and epochs the cost is taken."""

Facts = dict[str, float]


class Writer:
    """Writes a run of any length."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.store = store
        spec, data = loaded(folder, samples=64, tasks=2, batch=32)
        # No two checkpoints are of the same step, and none is read again while it is written.
        self.spec = spec.model_copy(
            update={"checkpoint": spec.checkpoint.model_copy(update={"verify": False})}
        )
        events: list[BaseModel] = []
        self.training = Trainer(self.spec, data)
        self.training.run(events.append, lambda: None, lambda: False)
        self.step = next(event for event in events if isinstance(event, Step))
        self.epoch = next(event for event in events if isinstance(event, Epoch))
        self.emitting: list[float] = []
        """Seconds of the processor for a step's event, epoch after epoch."""
        self.publishing: list[float] = []
        """Seconds for a checkpoint."""
        self.claiming: list[float] = []
        """Seconds for taking the run over."""
        self.next_seq = 1

    def write(self, steps: int) -> Facts:
        """Write a run, unfinished; returns what its last parts cost."""
        for first in range(0, steps, ATTEMPT):
            self._attempt(first, first + ATTEMPT == steps)
        sizes = {entry.key: entry.size for entry in self.store.list(f"{RUN}/")}
        events = sum(size for key, size in sizes.items() if "/events/" in key)
        index = f"{RUN}/latest.json"
        return {
            "event": statistics.median(self.emitting[-LAST:]),
            "checkpoint": statistics.median(self.publishing[-LAST:]),
            "claim": self.claiming[-1],
            "bytes": events / steps,
            "index": sizes[index],
            "state": sum(n for key, n in sizes.items() if "/checkpoints/" in key),
            "segments": sum("/events/" in key for key in sizes),
        }

    def _attempt(self, first: int, is_last: bool) -> None:
        begun = time.process_time()
        claimed = claim(self.store, self.spec, RUN, take_over=True, must_exist=first > 0)
        self.claiming.append(time.process_time() - begun)
        records = EventUploader(self.store, RUN, claimed.lease.epoch, 60.0)
        journal = EventLog(ID, [records], claimed.last_seq + 1)
        journal.emit(started(self.training, first or None))
        if first:
            undone = {"from_seq": self.next_seq, "to_seq": claimed.last_seq}
            journal.emit(Superseded(step=first, **undone))
        writer = self._checkpoints(claimed, records)
        for step in range(first + 1, first + ATTEMPT + 1, EPOCH):
            self._epoch(step, journal, records)
            self._save(writer, step + EPOCH - 1, journal)
            records.flush()
        if not is_last:
            self._steps(first + ATTEMPT + 1, LOST, journal, records)
        records.flush()
        writer.close()
        claimed.lease.release()

    def _checkpoints(self, claimed: Claim, records: EventUploader) -> CheckpointWriter:
        tensors, _ = self.training.state()
        return CheckpointWriter(
            *(self.store, RUN, claimed.index, tensors),
            keep=2,
            verify=False,
            offline_seconds=60.0,
            store_events=records.flush,
            report=lambda *_: None,
        )

    def _epoch(self, first: int, journal: EventLog, records: EventUploader) -> None:
        begun = time.process_time()
        self._steps(first, EPOCH, journal, records)
        self.emitting.append((time.process_time() - begun) / EPOCH)
        step = first + EPOCH - 1
        journal.emit(self.epoch.model_copy(update={"step": step, "epoch": step // EPOCH}))

    def _steps(self, first: int, count: int, journal: EventLog, records: EventUploader) -> None:
        for step in range(first, first + count):
            epoch = 1 + (step - 1) // EPOCH
            journal.emit(self.step.model_copy(update={"step": step, "epoch": epoch}))
            if step % SEGMENT == 0:
                records.flush()

    def _save(self, writer: CheckpointWriter, step: int, journal: EventLog) -> None:
        begun = time.process_time()
        tensors, values = self.training.state()
        values["position"] |= {"step": step, "epoch": step // EPOCH}
        self.next_seq = journal.next_seq
        content = self.spec.content_hash()
        info = CheckpointInfo(step, step // EPOCH, content, "0", self.next_seq, score=None)
        writer.take(tensors, values, info)
        if not writer.settle(600):
            raise RuntimeError("a checkpoint was not stored") from writer.failure
        self.publishing.append(time.process_time() - begun)


def written(steps: int, folder: Path) -> tuple[Store, Facts]:
    """The store of a run of that length, written if it is not there, and what writing it cost."""
    place, about = folder / f"store-{steps}", folder / f"store-{steps}.json"
    if not about.exists():
        shutil.rmtree(place, ignore_errors=True)
        about.write_text(json.dumps(Writer(folder, DirectoryStore(place)).write(steps)))
    return DirectoryStore(place), json.loads(about.read_text())


class Counting(DirectoryStore):
    """A directory that counts the keys that it lists."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.count = 0

    def list(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        """As in a directory."""
        for entry in super().list(prefix, after):
            self.count += 1
            yield entry


Measure = Callable[[int, Path, int], Costs]
Act = Callable[[Store], object]


def fact(name: str, unit: str) -> Measure:
    """What was measured while the run was written."""

    def measure(steps: int, folder: Path, _: int) -> Costs:
        return {unit: written(steps, folder)[1][name]}

    return measure


def reading(act: Act) -> Measure:
    """What an act on a run's store costs."""

    def measure(steps: int, folder: Path, rounds: int) -> Costs:
        store, _ = written(steps, folder)
        return cost(lambda: act(store), rounds)

    return measure


def poll(steps: int, folder: Path, rounds: int) -> Costs:
    """A look for new events by one who has all of them."""
    store, _ = written(steps, folder)
    counting = Counting(Path(store.url))
    tail = Tail(counting, RUN)
    list(tail.new())
    found = cost(lambda: list(tail.new()), rounds)
    before = counting.count
    list(tail.new())
    return {"seconds": found["seconds"], "count": 1 + counting.count - before}


def concluding(steps: int, folder: Path, _: int) -> Costs:
    """The end of a run whose process was killed: of a copy, which has then ended."""
    store = written(steps, folder)[0]
    copied = folder / "concluded"
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(store.url, copied, copy_function=os.link)  # no object is written in place
    there, spec = DirectoryStore(copied), Writer(folder, store).spec

    def act() -> None:
        until = time.monotonic() + 600
        conclude(there, spec, ID, "failed", 101, "", until=until, print_line=lambda _: None)

    return cost(act, 1)


def resuming(steps: int, folder: Path, rounds: int) -> Costs:
    """The start of the next process: claim, restore, the events that its screen shows."""
    store, _ = written(steps, folder)
    spec = Writer(folder, store).spec

    def act() -> None:
        claimed = claim(store, spec, RUN, take_over=True, must_exist=True)
        assert restore(store, RUN, claimed.index.body, lambda *_: None) is not None
        earlier_events(store, RUN, claimed.index.body.checkpoints[0].step)
        claimed.lease.release()

    return cost(act, rounds)


def _alarms(store: Store) -> list[Line]:
    """What `deploy.logs --event alarm` reads."""
    return [event for event in counting_backwards(store, RUN) if event["event"] == "alarm"]


def _exported(**kinds: bool) -> Act:
    def act(store: Store) -> None:
        with tempfile.TemporaryDirectory() as to:
            export(store, RUN, Path(to), **kinds)

    return act


def _state(store: Store) -> object:
    from deploy.runs.state import read_state

    return read_state(RunRef(name="scale", run_id=ID, store=store.url), datetime.now(UTC), None)


WRITING: dict[str, Measure] = {
    "the next step's event": fact("event", "seconds"),
    "events of a step": fact("bytes", "bytes"),
    "the next checkpoint": fact("checkpoint", "seconds"),
    "the checkpoints kept": fact("state", "bytes"),
}
"""Of which nothing may grow with the run."""
LISTS: dict[str, Measure] = {
    "the run index (a line for each attempt)": fact("index", "bytes"),
    "taking the run over": fact("claim", "seconds"),
    "resume: claim, restore, screen": resuming,
    "`deploy.logs --tail 20`": reading(lambda store: [*islice(counting_backwards(store, RUN), 20)]),
    "a look for new events, when following": poll,
    "`job list`, its row": reading(lambda store: read_rows(store)),
    "finding a run by its id": reading(lambda store: find_run(ID, store.url)),
    "`deploy.status`": reading(_state),
}
READERS: dict[str, Measure] = {
    "`deploy.logs --event alarm`": reading(_alarms),
    "report": reading(lambda store: report([(store, RUN)])),
    "export to CSV": reading(_exported(csv=True)),
    "export to Parquet": reading(_exported(parquet=True)),
    "comparing: outcome": reading(lambda store: outcome("row", 0, store, RUN)),
    "concluding a killed run": concluding,
}
