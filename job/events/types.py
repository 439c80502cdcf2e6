"""The typed events of a run, in the order in which they come.

Every line of a run's record is one event: `ts` (UTC, ISO 8601), `schema`, `run_id`, `seq`
(gapless), `event`, then the fields below; one that is None is left out. Numbers are JSON numbers,
or null beside `<field>_nonfinite: true`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from job.events.at_end import FinalTest, FinalTestTask, Predictions
from job.events.record import Record

SCHEMA = 1
"""Version of the events' schema; raised when a field changes its meaning or goes."""


class TaskSetup(Record):
    """What is fixed for a task before the first step."""

    level: Literal["window", "step"]
    """One prediction per window or per time step."""
    outputs: int
    """Outputs per prediction."""
    unit: str
    """Unit of the target."""
    classes: list[str] = []
    """The text that each class number, or 0 and 1, stands for, if the target is texts."""
    loss_unit: str = ""
    """Of a loss in original units, the baselines too; older records lack it."""
    shift: list[float]
    """[O], subtracted from the target."""
    scale: list[float]
    """[O], then divided by."""
    baseline_constant: float
    """Loss of the best constant prediction, training split, original units."""
    baseline_per_position: float | None = None
    """Loss of the best constant at each time step; null for a window task."""
    trivial: dict[str, float] = {}
    """By split, the loss of the strongest trivial prediction: of these two, fitted on the training
    split, and the constant that is best on the very split."""
    unmeasurable: dict[str, str] = {}
    """By split, why it cannot tell a skill; a split that can is left out."""


class Origin(Record):
    """The run that another one begins with, or goes on with for longer."""

    kind: Literal["start_from", "extends"]
    """start_from: its network alone; extends: its whole state."""
    run: str
    """`<name>/<run id>`."""
    store: str
    """Where it was found."""
    step: int
    """Of its checkpoint that was read."""
    epoch: int
    """Epochs that it had finished then."""
    sha256: str
    """Of the checkpoint's manifest, which holds the hashes of its files."""
    averaged: bool = False
    """The tensors are the average of the network over its steps, which that run evaluated."""
    changed: list[str] = []
    """What of the spec differs from that run's, of a run that extends it."""
    schedule: str = ""
    """What the learning rate does from there on, of a run that extends it."""


class RunStarted(Record):
    """The run's set-up; repeated at every resume."""

    event: Literal["run.started"] = "run.started"
    name: str
    """The job's name."""
    spec_hash: str
    """SHA-256 of the spec's content."""
    control: bool = False
    """The targets are permuted between samples: not a run of the job, but what it measures where
    there is nothing to learn."""
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
    frozen: list[str] = []
    """Parameter tensors that do not train."""
    compile_seconds: float | None = None
    """Seconds for which the network was compiled before the first step, if it was."""
    pretrained: list[str] = []
    """Tensors that the network began with, from the file or run that the spec names."""
    origin: Origin | None = None
    """The run that it began with, or goes on with; None: it began anew."""
    samples: dict[str, int]
    """Samples by split."""
    evaluated: int = 0
    """Training samples that an epoch evaluates (`train.evaluate`); older records lack it."""
    features: list[int]
    """[T, F] of a sample; of several inputs, F is the sum of theirs."""
    inputs: dict[str, list[int]] = {}
    """By input, the shape of a sample, features last; empty for features [T, F] alone."""
    feature_ranges: dict[str, list[float]] = {}
    """Of stored arrays, least and greatest value of each feature in the training split, not scaled;
    of more than 8 features those with the smallest and largest ranges and values."""
    levels: dict[str, list[str]] = {}
    """Of a table, by column of texts, the text that each of its features stands for; of codes, by
    feature, what each code from 0 stands for, unless there are more than 64."""
    rows: int
    """Rows read from the source."""
    skipped: dict[str, int]
    """What the loader left out, with its count."""
    steps: int
    """Steps that the whole run takes."""
    parts: int = 1
    """Parts that a batch is computed in."""
    ranks: int = 1
    """Processes that share each part."""
    effective_batch: int = 0
    """Samples of an update, over all ranks and accumulated parts; older records lack it."""
    resumed_from: int | None = None
    """Step of the checkpoint that the run goes on from."""
    tasks: dict[str, TaskSetup]
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
    labelled: int | None = None
    """Elements of the batch that count: that have a label, in a sample of a weight above 0. Left
    out for a task all of whose elements count."""


class Step(Record):
    """One training step."""

    event: Literal["step"] = "step"
    step: int
    """Counted from 1."""
    epoch: int
    """Counted from 1."""
    tasks: dict[str, StepTask]
    """By task."""
    cosine_min: float | None = None
    """Smallest cosine between two tasks' gradients at z; null for a single task."""
    lr: float
    """Learning rate of the trunk."""
    step_ms: float
    """Milliseconds, mean since the last fetch from the device."""
    skipped: bool = False
    """The update was not applied: a gradient overflowed under fp16."""
    at: Literal["parameters"] | None = None
    """Where the tasks' gradients are compared, if not at z: at the parameters that they share."""
    measured_at: int | None = None
    """The step at which gradients were measured, if not this one; 0: at none yet."""


class EpochTask(Record):
    """A task after an epoch. Losses in evaluation mode."""

    train_loss: float
    """Training split, transformed units."""
    val_loss: float
    """Validation split, transformed units."""
    train_loss_original: float
    """Training split, original units."""
    train_loss_error: float | None = None
    """Its standard error as the loss of the whole split, in the same units; null if all of its
    samples are evaluated."""
    val_loss_original: float
    """Validation split, original units."""
    drop: float
    """1 − train_loss_original / its value after epoch 1."""
    val_drop: float
    """The same on the validation split."""
    drop_trivial: float | None = None
    """The drop of a run that fell from the same start to the strongest trivial prediction's loss;
    older records lack it, and the fields below whose default is null."""
    val_drop_trivial: float | None = None
    """The same on the validation split."""
    skill: float | None = None
    """1 − train_loss_original / the strongest trivial prediction's loss on that split; null if the
    split cannot tell (`unmeasurable` in run.started)."""
    skill_error: float | None = None
    """Standard error of the skill over the split's samples."""
    skill_low: float | None = None
    """Lower end of the skill's 95 % interval."""
    val_skill: float | None = None
    """Skill on the validation split."""
    val_skill_error: float | None = None
    """Its standard error."""
    val_skill_low: float | None = None
    """Lower end of its 95 % interval."""
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
    metrics: dict[str, float | None] = {}
    """Metrics of the training split by name (docs/verdict.md); null where it holds no value of one.
    Older records lack them."""
    val_metrics: dict[str, float | None] = {}
    """Metrics of the validation split."""
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
    noise_scale: float | None = None
    """Of a run that accumulates: the batch size, in samples, at which the noise in the gradient of
    the shared parameters is as large as the gradient (McCandlish et al. 2018, appendix A.1), over
    the epoch's steps. Below 0 if there is too much noise to tell."""
    checkpoint_age: float | None = None
    """Seconds since the newest durable checkpoint was taken; null before the first."""
    at: Literal["parameters"] | None = None
    """Where the tasks' gradients are compared, if not at z: at the parameters that they share."""


class Superseded(Record):
    """The run went back to a checkpoint: the training recorded after it no longer counts."""

    event: Literal["superseded"] = "superseded"
    step: int
    """Steps that the checkpoint holds; 0 for a start from the beginning."""
    from_seq: int
    """First event superseded."""
    to_seq: int
    """Last event superseded. Only steps, epochs, gates, predictions, tests and ends among them
    are."""


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
    """True if the gate holds."""
    measured: float | None = None
    """The measured value; null if the run ended before it could be measured."""
    unit: Literal["share", "ratio", "metric"]
    """Of the measured value: a share of a loss, one gradient's norm over another's, or a metric in
    its own unit."""
    epoch: int
    """The epoch at which it was measured."""
    error: float | None = None
    """Standard error of a measured skill."""
    trivial: float | None = None
    """Beside a measured drop, how much of it a trivial prediction would show."""
    why: str | None = None
    """Why nothing finite could be measured, or why what was measured does not pass."""


class Worth(Record):
    """What a task's predictions are worth: their skill on the validation split."""

    beats: bool
    """True if they beat the strongest trivial prediction: the 95 % interval of the skill is above
    0."""
    skill: float | None = None
    """After the last epoch; null if there is none."""
    error: float | None = None
    """Its standard error."""
    why: str | None = None
    """Why there is no skill."""


Reason = Literal[
    "succeeded",
    "gates_failed",
    "failed",
    "not_finite",
    "oom",
    "deadline_exceeded",
    "stalled",
    "cancelled",
    "upload_failed",
    "crash_loop",
]
"""docs/exit-codes.md has a row for each."""


class RunFinished(Record):
    """The end, and the verdict."""

    event: Literal["run.finished"] = "run.finished"
    reason: Reason
    """Why the run ended; docs/exit-codes.md has a row for each."""
    exit_code: int
    """Of the process."""
    gates: list[GateResult]
    """Every gate of the spec."""
    worth: dict[str, Worth] = {}
    """By task; empty before the first epoch ended."""
    test: dict[str, FinalTestTask] = {}
    """By task, as in the event `test`; empty if the run measured no test split."""
    control: bool = False
    """As in run.started."""
    steps: int
    """Steps taken."""
    epochs: int
    """Epochs finished."""
    seconds: float
    """Training time, over all attempts."""
    error: str | None = None
    """What went wrong, in one line."""


Event = Annotated[
    RunStarted
    | Step
    | Epoch
    | Superseded
    | Alarm
    | CheckpointSaved
    | GateResult
    | Predictions
    | FinalTest
    | RunFinished,
    Field(discriminator="event"),
]

EVENT: TypeAdapter[Event] = TypeAdapter(Event)
