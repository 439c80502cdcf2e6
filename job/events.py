"""The typed events of a run, in the order in which they come.

Every line of a run's record is one event: `ts` (UTC, ISO 8601), `schema`, `run_id`, `seq`
(gapless), `event`, then the fields below; one that is None is left out. Numbers are JSON numbers,
or null beside `<field>_nonfinite: true`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

SCHEMA = 1
"""Version of the events' schema; raised when a field changes its meaning or goes."""


class Record(BaseModel):
    """A frozen record with nothing unknown in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TaskFacts(Record):
    """What stands fixed for a task before the first step."""

    level: Literal["window", "step"]
    """One prediction per window or per time step."""
    outputs: int
    """Outputs per prediction."""
    unit: str
    """Unit of the target."""
    loss_unit: str = ""
    """Of a loss in original units, the baselines too; older records lack it."""
    shift: list[float]
    """[O], subtracted from the target."""
    scale: list[float]
    """[O], then divided by."""
    baseline_constant: float
    """Loss of the best constant prediction, training split, original units."""
    baseline_per_position: float | None
    """Loss of the best constant at each time step; null for a window task."""


class RunStarted(Record):
    """The run's set-up; again at every resume."""

    event: Literal["run.started"] = "run.started"
    name: str
    """The job's name."""
    spec_hash: str
    """SHA-256 of the spec's content."""
    version: str
    """evengrad's version."""
    torch: str
    """torch's version."""
    device: str
    """Device, with its name."""
    threads: int
    """CPU threads."""
    parameters: int
    """Trained numbers in the network."""
    shapes: dict[str, list[int]]
    """Shape of every parameter tensor."""
    samples: dict[str, int]
    """Samples by split."""
    features: list[int]
    """[T, F] of a sample."""
    rows: int
    """Rows read from the source."""
    skipped: dict[str, int]
    """What the loader left out, with its count."""
    steps: int
    """Steps that the whole run takes."""
    resumed_from: int | None = None
    """Step of the checkpoint that the run goes on from."""
    tasks: dict[str, TaskFacts]
    """By task."""


class StepTask(Record):
    """A task in one training step. Gradients are of the unweighted loss."""

    loss: float
    """In transformed units, training mode."""
    loss_original: float
    """In original units."""
    weight: float
    """Given by the balancer."""
    grad_norm: float
    """Norm of the gradient at the shared representation z."""
    grad_share: float
    """weight × grad_norm over its sum over the tasks."""
    head_grad_norm: float
    """Norm of the gradient at the head's output weights."""
    cosine: float
    """Between this gradient and the combined one, at z."""
    shared_grad_norm: float | None = None
    """Norm of the exact gradient on all shared parameters, in audited steps."""


class Step(Record):
    """One training step."""

    event: Literal["step"] = "step"
    step: int
    """Counted from 1."""
    epoch: int
    """Counted from 1."""
    tasks: dict[str, StepTask]
    """By task."""
    cosine_min: float | None
    """Smallest cosine between two tasks' gradients at z; null for a single task."""
    lr: float
    """Learning rate of the trunk."""
    step_ms: float
    """Milliseconds, mean since the last fetch from the device."""
    skipped: bool = False
    """The update was not applied: a gradient overflowed under fp16."""


class EpochTask(Record):
    """A task after an epoch. Losses in evaluation mode."""

    train_loss: float
    """Training split, transformed units."""
    val_loss: float
    """Validation split, transformed units."""
    train_loss_original: float
    """Training split, original units."""
    val_loss_original: float
    """Validation split, original units."""
    drop: float
    """1 − train_loss_original / its value after epoch 1."""
    val_drop: float
    """The same on the validation split."""
    skill: float
    """1 − train_loss_original / the strongest trivial prediction's loss on that split."""
    val_skill: float
    """The same on the validation split; the trivial prediction is fitted on the training split."""
    weight: float
    """Mean over the epoch's steps."""
    grad_norm: float
    """Mean over the epoch's steps, at z."""
    grad_share: float
    """Mean over the epoch's steps, at z."""
    cosine: float
    """Mean cosine with the combined gradient, over the epoch's steps, at z."""
    cosines: dict[str, float]
    """Mean cosine with each other task's gradient, over the epoch's steps, at z."""
    saturated: float
    """Share of the training split's elements at which the loss is saturated: beyond Huber's delta,
    or wrong where the activation is flat."""
    pull: float
    """Mean weight × grad_norm over the epoch's steps: what the trunk got from the task."""
    head_pull: float
    """Mean weight × head_grad_norm over the epoch's steps."""


class Epoch(Record):
    """One pass over the training set."""

    event: Literal["epoch"] = "epoch"
    epoch: int
    """Counted from 1."""
    step: int
    """Steps taken so far."""
    tasks: dict[str, EpochTask]
    """By task."""
    seconds: float
    """Training and evaluation."""
    samples_per_second: float
    """Training samples, evaluation not counted."""
    checkpoint_age: float | None = None
    """Seconds since the newest durable checkpoint was taken; null before the first."""


class Superseded(Record):
    """The run went back to a checkpoint: what it had recorded after that counts no more."""

    event: Literal["superseded"] = "superseded"
    step: int
    """Steps that the checkpoint holds; 0 for a start from the beginning."""
    from_seq: int
    """First event superseded."""
    to_seq: int
    """Last event superseded. Of these, only the kinds that tell of training are."""


class Alarm(Record):
    """Something a person should know; never stops the run by itself."""

    event: Literal["alarm"] = "alarm"
    kind: str
    """What kind of alarm."""
    message: str
    """In plain words, with the evidence."""
    step: int
    """When."""
    task: str | None = None
    """The task it is about."""


class CheckpointSaved(Record):
    """The run's state is in the store."""

    event: Literal["checkpoint.saved"] = "checkpoint.saved"
    step: int
    """Steps it holds."""
    epoch: int
    """Epochs it holds, finished ones."""
    size: int
    """Bytes."""
    seconds: float
    """From the snapshot until it was durable."""


class GateResult(Record):
    """One gate's verdict."""

    event: Literal["gate"] = "gate"
    gate: str
    """The gate in words."""
    passed: bool
    """Whether it holds."""
    measured: float | None
    """The measured value; null where the run ended before it could be read."""
    unit: Literal["share", "ratio"]
    """Of the measured value: a share of a loss, or one gradient's norm over another's."""
    epoch: int
    """The epoch at which it was read."""


Reason = Literal[
    "succeeded",
    "gates_failed",
    "failed",
    "oom",
    "deadline_exceeded",
    "cost_cap",
    "stalled",
    "cancelled",
    "interrupted",
    "start_timeout",
    "no_capacity",
    "upload_failed",
    "crash_loop",
    "lost",
]


class RunFinished(Record):
    """The end, and the verdict."""

    event: Literal["run.finished"] = "run.finished"
    reason: Reason
    """Why the run ended."""
    exit_code: int
    """Of the process."""
    gates: list[GateResult]
    """Every gate of the spec."""
    steps: int
    """Steps taken."""
    epochs: int
    """Epochs finished."""
    seconds: float
    """Training time, over all attempts."""
    error: str | None = None
    """What went wrong, in one line."""


Event = Annotated[
    RunStarted | Step | Epoch | Superseded | Alarm | CheckpointSaved | GateResult | RunFinished,
    Field(discriminator="event"),
]

EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def fields(event: BaseModel) -> dict[str, Any]:
    """The event's own fields as JSON values: non-finite numbers null and flagged, no nulls else.

    A field that may be null and is, such as `shared_grad_norm` between audits, is left out.
    """
    return _finite(event.model_dump(exclude_none=True))


def _finite(record: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, float):  # first: nearly all are
            out[key] = value
            if not math.isfinite(value):
                out[key], out[f"{key}_nonfinite"] = None, True
        elif isinstance(value, dict):
            out[key] = _finite(value)
        elif isinstance(value, list):
            out[key] = [
                _finite(x) if isinstance(x, dict) else None if _is_broken(x) else x for x in value
            ]
            if any(map(_is_broken, value)):
                out[f"{key}_nonfinite"] = True
        else:
            out[key] = value
    return out


def _is_broken(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
