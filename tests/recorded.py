"""The events of a run that nobody trained, as its record has them, by the published schema."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from job.events import (
    SCHEMA,
    Alarm,
    CheckpointSaved,
    Epoch,
    EpochTask,
    GateResult,
    RunFinished,
    RunStarted,
    Step,
    StepTask,
    Superseded,
    TaskFacts,
    fields,
)
from job.head import Head, HeadDocument
from job.journal import Line, _json
from job.records import digest_of
from job.store import Store

EPOCHS, STEPS = 10, 20
"""Epochs, steps an epoch."""
BEGUN = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Recorded:
    """A run that is told event by event, one a second; task k has 1 / (k + 1) of task 0's loss."""

    def __init__(self, *tasks: str, epochs: int = EPOCHS, name: str = "jade") -> None:
        self.tasks, self.epochs, self.name = list(tasks), epochs, name
        self.lines: list[Line] = []
        self.step = 0

    def tell(self, event: BaseModel) -> Line:
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
        return self.tell(
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
                tasks={name: TaskFacts(**facts, unit="") for name in self.tasks},
            )
        )

    def train(self, steps: int, **values: float) -> Line:
        """Take steps, ending epochs where they end; values: of every task, instead of the usual."""
        line: Line = {}
        for _ in range(steps):
            self.step += 1
            line = self._take_step(values)
            if self.step % STEPS == 0:
                line = self._end_epoch(values)
        return line

    def _take_step(self, values: dict[str, float]) -> Line:
        return self.tell(
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
        return self.tell(
            Epoch(
                epoch=self.step // STEPS,
                step=self.step,
                tasks={
                    name: EpochTask(
                        **self._values(EpochTask, k) | _known(EpochTask, values),
                        cosines={other: 0.25 for other in self.tasks if other != name},
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
            **{"drop": 0.123, "skill": -0.456, "weight": 2.5},
            "grad_share": (k + 1) * 2 / (len(self.tasks) * (len(self.tasks) + 1)),
        }
        return {name: value for name, value in _known(record, known).items() if name != "cosines"}

    def alarm(self, task: str | None = None, kind: str = "task_starving") -> Line:
        message = f"{task}: its loss stands still; its share of the gradient at z is 0.1%"
        return self.tell(Alarm(kind=kind, message=message, step=self.step, task=task))

    def save(self) -> Line:
        epoch = self.step // STEPS
        return self.tell(CheckpointSaved(step=self.step, epoch=epoch, size=378_000, seconds=0.1))

    def gate(self, passed: bool, measured: float | None = 0.3) -> Line:
        return self.tell(_gate(passed, measured))

    def resume(self, step: int) -> list[Line]:
        """Another process goes on from the checkpoint of a step."""
        of_training = [e for e in self.lines if e["event"] in ("step", "epoch")]
        gone = [e["seq"] for e in of_training if e["step"] > step]
        last = len(self.lines)
        lines = [self.begin(step)]
        if gone:
            lines += [self.tell(Superseded(step=step, from_seq=min(gone), to_seq=last))]
        return lines

    def finish(self) -> Line:
        return self.tell(
            RunFinished(
                reason="gates_failed",
                exit_code=6,
                gates=[_gate(False, 0.1)],
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
        head = HeadDocument(store, run, fenced=True)
        head.read()
        head.write(Head(epoch=1, spec_hash="", fences={}))


def _gate(passed: bool, measured: float | None) -> GateResult:
    gate = "a drops > 20% by epoch 5"
    return GateResult(gate=gate, passed=passed, measured=measured, unit="share", epoch=5)


def _known(record: type[BaseModel], values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name in record.model_fields}
