"""The record of a run that nobody trained: events by the published schema."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel

from job.events import (
    SCHEMA,
    Alarm,
    CheckpointSaved,
    Confused,
    Confusion,
    Curve,
    Epoch,
    EpochTask,
    FinalTest,
    FinalTestTask,
    GateResult,
    Predictions,
    RunFinished,
    RunStarted,
    Sample,
    Step,
    StepTask,
    Superseded,
    TaskSetup,
    fields,
)
from job.events.log import Line, _json
from job.events.well_formed import REQUIRED
from job.record.run_index import RunIndex, RunIndexStore
from job.record.segments import digest_of
from job.store import Store


def whole(event: Line) -> Line:
    """An event with all the fields of its kind; those that it lacks are 0 or empty."""
    empty: Line = dict.fromkeys(REQUIRED.get(event["event"], ()), 0)
    if "tasks" in empty:
        empty["tasks"] = {}
    return {"ts": f"{BEGUN:%Y-%m-%dT%H:%M:%SZ}", **empty, **event}


EPOCHS, STEPS = 10, 20
OBJECTS = ("cosines", "metrics", "val_metrics")
"""Fields of a task in an epoch that are no numbers."""
"""Epochs, steps an epoch."""
BEGUN = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Recorded:
    """A run's events, one a second; the loss of task k is 1 / (k + 1) of task 0's."""

    def __init__(self, *tasks: str, epochs: int = EPOCHS, name: str = "jade") -> None:
        self.tasks, self.epochs, self.name = list(tasks), epochs, name
        self.lines: list[Line] = []
        self.step = 0
        self.tested: dict[str, FinalTestTask] = {}

    def add(self, event: BaseModel) -> Line:
        """Add an event."""
        ts = (BEGUN + timedelta(seconds=len(self.lines))).isoformat().replace("+00:00", "Z")
        seq = len(self.lines) + 1
        line = {"ts": ts, "schema": SCHEMA, "run_id": "r1", "seq": seq, **fields(event)}
        self.lines.append(line)
        return line

    def begin(self, resumed_from: int | None = None) -> Line:
        facts: dict[str, Any] = {
            **{"level": "window", "outputs": 1, "shift": [0.0], "scale": [1.0]},
            **{"baseline_constant": 1.25, "baseline_per_position": None},
        }
        self.step = resumed_from or 0
        return self.add(
            RunStarted(
                name=self.name,
                spec_hash="0" * 64,
                version="0.1.0",
                torch="2.13.0",
                device="cpu (x86_64)",
                threads=2,
                parameters=123456,
                shapes={},
                samples={"train": 168, "validation": 42},
                features=[105, 12],
                rows=5031,
                skipped={},
                steps=self.epochs * STEPS,
                resumed_from=resumed_from,
                tasks={name: TaskSetup(**facts, unit="") for name in self.tasks},
            )
        )

    def train(self, steps: int, **values: float) -> Line:
        """Take steps, and end epochs when they end; values: of every task, instead of the usual."""
        line: Line = {}
        for _ in range(steps):
            self.step += 1
            line = self._take_step(values)
            if self.step % STEPS == 0:
                line = self._end_epoch(values)
        return line

    def _take_step(self, values: dict[str, float]) -> Line:
        return self.add(
            Step(
                step=self.step,
                epoch=1 + (self.step - 1) // STEPS,
                tasks={
                    name: StepTask(**self._values(StepTask, k) | _known(StepTask, values))
                    for k, name in enumerate(self.tasks)
                },
                cosine_min=-0.5 if len(self.tasks) > 1 else None,
                lr=1e-3,
                step_ms=12.5,
            )
        )

    def _end_epoch(self, values: dict[str, float]) -> Line:
        return self.add(
            Epoch(
                epoch=self.step // STEPS,
                step=self.step,
                tasks={
                    name: EpochTask(
                        **self._values(EpochTask, k) | _known(EpochTask, values),
                        cosines={other: 0.25 for other in self.tasks if other != name},
                        metrics={"mae": 1.5, "r2": 0.75},
                        val_metrics={"mae": 2.5, "r2": None},
                    )
                    for k, name in enumerate(self.tasks)
                },
                seconds=1.5,
                samples_per_second=1234.5,
            )
        )

    def _values(self, record: type[BaseModel], k: int) -> dict[str, float]:
        loss = 4.0 / (k + 1) * (1 - self.step / (2 * self.epochs * STEPS))
        known = {
            **dict.fromkeys(record.model_fields, 0.5),
            **dict.fromkeys(("loss", "loss_original", "train_loss_original"), loss),
            **{"drop": 0.123, "drop_trivial": 0.1, "weight": 2.5, "labelled": 7},
            **{"val_skill": -0.456, "val_skill_error": 0.05, "val_skill_low": -0.554},
            "grad_share": (k + 1) * 2 / (len(self.tasks) * (len(self.tasks) + 1)),
        }
        return {name: value for name, value in _known(record, known).items() if name not in OBJECTS}

    def alarm(self, task: str | None = None, kind: str = "task_starving") -> Line:
        message = f"{task}: its loss stands still; its share of the gradient at z is 0.1%"
        return self.add(Alarm(kind=kind, message=message, step=self.step, task=task))

    def save(self) -> Line:
        epoch = self.step // STEPS
        return self.add(CheckpointSaved(step=self.step, epoch=epoch, size=378_000, seconds=0.1))

    def measure_end(self) -> None:
        """What is measured after the last epoch; the skill of the last task cannot be told."""
        at: dict[str, int] = {"step": self.step, "epoch": self.step // STEPS}
        for name in self.tasks:
            self.add(predictions(name, "validation", **at))
        skill = {"skill": 0.25, "skill_error": 0.125, "skill_low": 0.0}
        test = {"loss": 0.5, "loss_original": 2.0, "trivial_loss_original": 3.0}
        tasks = {
            name: FinalTestTask(**test, **skill, metrics={"mae": 3.5, "r2": None})
            for name in self.tasks[:-1]
        }
        tasks[self.tasks[-1]] = FinalTestTask(**test, metrics={"mae": 3.5})
        why = {self.tasks[-1]: "the target is the same in all its samples"}
        self.add(FinalTest(**at, samples=17, unmeasurable=why, tasks=tasks))
        for name in self.tasks:
            self.add(predictions(name, "test", **at))
        self.tested = tasks

    def gate(self, passed: bool, measured: float | None = 0.3) -> Line:
        return self.add(_gate(passed, measured))

    def resume(self, step: int) -> list[Line]:
        """Another process goes on from the checkpoint of a step."""
        of_training = [e for e in self.lines if e["event"] in ("step", "epoch")]
        gone = [e["seq"] for e in of_training if e["step"] > step]
        last = len(self.lines)
        lines = [self.begin(step)]
        if gone:
            lines += [self.add(Superseded(step=step, from_seq=min(gone), to_seq=last))]
        return lines

    def finish(self) -> Line:
        return self.add(
            RunFinished(
                reason="gates_failed",
                exit_code=6,
                gates=[_gate(False, 0.1)],
                test=self.tested,
                steps=self.step,
                epochs=self.step // STEPS,
                seconds=3.0,
            )
        )

    def store(self, store: Store, run: str, events: int = 50) -> None:
        """Leave it in a store, `events` a segment."""
        for first in range(0, len(self.lines), events):
            part = self.lines[first : first + events]
            data = "".join(f"{_json(line)}\n" for line in part).encode()
            name = f"{1:06d}-{part[0]['seq']:012d}-{part[-1]['seq']:012d}-{digest_of(data)}"
            store.put(f"{run}/events/{name}.jsonl", data)
        head = RunIndexStore(store, run, fenced=True)
        head.read()
        head.write(RunIndex(epoch=1, spec_hash="", fences={}))


def predictions(
    task: str, split: Literal["validation", "test"], step: int, epoch: int
) -> BaseModel:
    """What plots show of a task of two classes, and of numbers too."""
    curve = Curve(output=1, ones=3, zeros=4, thresholds=[0.9, 0.1], true=[2, 3], false=[1, 4])
    return Predictions(
        task=task,
        split=split,
        step=step,
        epoch=epoch,
        labels=7,
        confusion=[Confusion(counts=[[3, 1], [1, 2]])],
        confused=[Confused(true=0, predicted=1, count=1)],
        curves=[curve],
        sample=Sample(true=[1.0, 2.5], predicted=[1.5, 2.0], outputs=[0, 0]),
    )


def _gate(passed: bool, measured: float | None) -> GateResult:
    gate = "a drops > 20% by epoch 5"
    return GateResult(gate=gate, passed=passed, measured=measured, unit="share", epoch=5)


def _known(record: type[BaseModel], values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name in record.model_fields}
