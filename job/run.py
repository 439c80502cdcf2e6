"""A run in its store: from a valid spec to a result, resumed where it was cut off."""

from __future__ import annotations

import json
import platform
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import torch

from job import checkpoint
from job.data import Dataset
from job.events import CheckpointSaved, Reason, RunFinished, RunStarted, TaskFacts, fields
from job.journal import Journal, Sink
from job.ledger import NotFinite
from job.records import Records
from job.spec import JobSpec
from job.store import Missing, Store
from job.train import Interrupted, Training

PASSED, FAILED, INVALID, GATES_FAILED, INTERRUPTED = 0, 1, 2, 6, 75
"""Exit codes."""


def run(spec: JobSpec, data: Dataset, store: Store, run_id: str, sinks: Sequence[Sink]) -> int:
    """Train `spec` on `data` as run `run_id` of the store; returns the exit code.

    A finished run is not trained again; an unfinished one goes on from its last checkpoint.
    """
    return Run(spec, data, store, run_id, sinks).execute()


class Run:
    """One attempt at a run."""

    def __init__(
        self, spec: JobSpec, data: Dataset, store: Store, run_id: str, sinks: Sequence[Sink]
    ) -> None:
        self.spec, self.data, self.store, self.run_id = spec, data, store, run_id
        self.folder = f"{spec.name}/{run_id}"
        self.records = Records(store, self.folder)
        self.journal = Journal(run_id, [*sinks, self.records])
        self.stopping = False

    def execute(self) -> int:
        """Train, save, judge; every end writes what it knows before it returns its exit code."""
        recorded = self._recorded()
        if recorded is not None:
            print(f"run {self.run_id} has finished: {recorded['reason']}", file=sys.stderr)
            return int(recorded["exit_code"])
        training = Training(self.spec, self.data)
        resumed = self._resume(training)
        self.store.put(f"{self.folder}/spec.json", self.spec.canonical().encode())
        self.journal.emit(started(training, resumed))
        error: str | None = None
        with self._signals():
            try:
                training.run(self.journal.emit, lambda: self._save(training), lambda: self.stopping)
                passed = all(gate.passed for gate in training.verdict.final(training.at.epoch))
                reason: Reason = "succeeded" if passed else "gates_failed"
                code = PASSED if passed else GATES_FAILED
            except Interrupted:
                self._save(training)
                self.records.flush()
                return INTERRUPTED
            except NotFinite as fault:
                reason, code, error = "failed", FAILED, str(fault)
            except torch.OutOfMemoryError as fault:
                reason, code, error = "oom", FAILED, str(fault).splitlines()[0]
            except Exception as fault:
                traceback.print_exc()
                reason, code, error = "failed", FAILED, f"{type(fault).__name__}: {fault}"
            self._finish(training, reason, code, error)
        return code

    def _recorded(self) -> dict[str, Any] | None:
        try:
            result: dict[str, Any] = json.loads(self.store.get(f"{self.folder}/result.json").data)
        except Missing:
            return None
        return result

    def _resume(self, training: Training) -> int | None:
        found = checkpoint.load(self.store, self.folder)
        if found is None:
            return None
        tensors, values = found
        training.restore(tensors, values["training"])
        self.journal.next_seq = values["next_seq"]
        return training.at.step

    def _save(self, training: Training) -> None:
        begun = time.perf_counter()
        tensors, values = training.state()
        step = training.at.step
        self.records.flush()
        size = checkpoint.save(
            self.store,
            self.folder,
            step,
            tensors,
            {"training": values, "next_seq": self.journal.next_seq},
        )
        seconds = time.perf_counter() - begun
        self.journal.emit(
            CheckpointSaved(step=step, epoch=training.at.epoch, size=size, seconds=seconds)
        )

    def _finish(self, training: Training, reason: Reason, code: int, error: str | None) -> None:
        at = training.at
        event = RunFinished(
            reason=reason,
            exit_code=code,
            gates=training.verdict.final(at.epoch),
            steps=at.step,
            epochs=at.epoch,
            seconds=at.seconds,
            error=error,
        )
        self.journal.emit(event)
        self.records.flush()
        result = {"run_id": self.run_id, "spec_hash": self.spec.content_hash(), **fields(event)}
        del result["event"]
        self.store.put(f"{self.folder}/result.json", json.dumps(result, indent=2).encode())

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the run after the current step; a second one ends it at once."""

        def stop(number: int, _: object) -> None:
            self.stopping = True
            signal.signal(number, signal.SIG_DFL)

        before = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)


def started(training: Training, resumed: int | None) -> RunStarted:
    """The event that tells a run's set-up."""
    spec, data, model = training.spec, training.data, training.stepper.model
    cuda = training.device.type == "cuda"
    name = torch.cuda.get_device_name(training.device) if cuda else platform.machine()
    return RunStarted(
        name=spec.name,
        spec_hash=spec.content_hash(),
        version=metadata.version("evengrad"),
        torch=torch.__version__,
        device=f"{training.device.type} ({name})",
        threads=torch.get_num_threads(),
        parameters=sum(p.numel() for p in model.parameters()),
        shapes={n: list(p.shape) for n, p in model.named_parameters()},
        samples={
            "train": len(data.train.features),
            "validation": len(data.validation.features),
        },
        features=list(data.train.features.shape[1:]),
        rows=data.rows,
        skipped=data.skipped,
        steps=training.total_steps,
        resumed_from=resumed,
        tasks={
            loss.task.name: TaskFacts(
                level=loss.task.level,
                outputs=loss.task.outputs,
                unit=loss.task.unit,
                shift=loss.shift.tolist(),
                scale=loss.scale.tolist(),
                baseline_constant=base.constant["train"],
                baseline_per_position=base.per_position["train"] if base.per_position else None,
            )
            for loss, base in zip(training.losses, training.baselines, strict=True)
        },
    )
