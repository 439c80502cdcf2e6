"""The spec's sections about training: loop, log, checkpoints, gates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from job.spec.base import BrokenRule, Count, Positive, Section, Text
from job.spec.update.schedule import Accumulate, Ema, Schedule


def watched(task: str, metric: str | None) -> str:
    """What a score is kept by: the task for its loss, `<task>.<metric>` for a metric."""
    return task if metric is None else f"{task}.{metric}"


class EarlyStop(Section):
    """Stop when a task's validation loss, or metric, has not improved for some epochs."""

    LATER = ("metric",)
    task: str
    """The task to watch, or `*` for the mean of all tasks' losses relative to epoch 1."""
    metric: Text | None = None
    """The metric of it to watch, higher or lower as is better; null: its loss."""
    patience: Count = 5
    """Epochs without a new best value."""

    @property
    def watched(self) -> str:
        """What it watches, as scores are named."""
        return watched(self.task, self.metric)

    def rules(self) -> Iterator[BrokenRule]:
        """A metric is of one task."""
        if self.metric is not None and self.task == "*":
            yield BrokenRule(("task",), "a metric is of one task", "name the task, or drop metric")


class Train(Section):
    """The training loop."""

    LATER = ("warmup", "ema", "accumulate", "compile")

    epochs: Count
    """Passes over the training set."""
    batch_size: Count
    """Samples per step; a last, smaller batch is used as well."""
    schedule: Schedule = "constant"
    """Schedule of the learning rate; one_cycle: warm-up over 30 % of all steps, then cosine."""
    accumulate: Accumulate | None = None
    """Parts of a batch that are computed one after the other, for memory; null: none."""
    warmup: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Steps in which the rate rises to its base, before the schedule begins."""
    ema: Ema | None = None
    """A running average of the network, which is evaluated in its place; null: none."""
    clip: Positive | None = None
    """Largest norm of the whole gradient; null: no limit."""
    early_stop: EarlyStop | None = None
    """When to stop before the last epoch; null: never."""
    deterministic: bool = True
    """Only deterministic kernels: a resumed run repeats an undisturbed one bit for bit."""
    compile: bool = False
    """Compile trunk and heads with PyTorch's compiler, before the first step; needs a C++ compiler,
    and for GPUs Triton. For GPUs: on a CPU it is slower or no faster."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of forward and backward; fp16 scales the loss and skips steps that overflow."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA if there is a CUDA device, else the CPU."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads; null: torch's choice. The last bit of sums depends on it."""
    evaluate: Count | None = None
    """At most this many training samples, evenly spaced, enter an epoch's training-split loss and
    all that follows from it (metrics, gates on `train`). null: a tenth of them, at least 256 and at
    most 8192, of equal stretches one each at random: a forward pass is about a third of a step, so
    a tenth costs about 3 % of an epoch. The same samples in every epoch; the events tell the
    standard error."""

    def evaluated(self, samples: int) -> int:
        """How many of the training samples an epoch evaluates."""
        wanted = min(max(256, samples // 10), 8192) if self.evaluate is None else self.evaluate
        return min(wanted, samples)

    def rules(self) -> Iterator[BrokenRule]:
        """No CPU trains in fp16, and there is one warm-up."""
        if self.warmup and self.schedule == "one_cycle":
            rule = "one_cycle has a warm-up of its own"
            yield BrokenRule(("warmup",), rule, 'remove it, or set the schedule to "cosine"')
        if self.device == "cpu" and self.precision == "fp16":
            yield BrokenRule(
                ("precision",), "CPUs have no LSTM in fp16", 'set it to "fp32", or device to "cuda"'
            )


class Log(Section):
    """How often events are recorded."""

    LATER = ("ledger_every",)
    every: Count = 10
    """Steps between fetches from the device; every step still has its event."""
    audit_every: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Steps between exact measurements of each task's gradient on the shared parameters; 0: none.
    Each measurement costs one trunk backward per task. null: 100 times the number of tasks (500
    with 5), so that it costs about half a percent of the time."""
    ledger_every: Count | None = None
    """Steps between measurements of each task's gradient; between them weights that follow from it
    are held. null: 1 at the shared representation z; 20 for a network without a common z, where
    each costs a backward per task."""

    def audited_every(self, tasks: int) -> int:
        """Steps between audits of a run of so many tasks; 0: there are none."""
        return 100 * tasks if self.audit_every is None else self.audit_every


class Encryption(Section):
    """How the store must encrypt objects, if not by the bucket's default."""

    kind: Literal["sse-s3", "aws:kms"]
    """With a key of the server itself, or with one of its key management."""
    key_id: Text | None = None
    """Of aws:kms: the key's id or ARN; null: the account's default key."""

    def rules(self) -> Iterator[BrokenRule]:
        """Only key management has keys to choose from."""
        if self.kind == "sse-s3" and self.key_id is not None:
            yield BrokenRule(
                ("key_id",), "sse-s3 has no key to name", 'drop it or set kind "aws:kms"'
            )


class Checkpoint(Section):
    """When the run's state is saved, and how many checkpoints are kept."""

    LATER = ("encryption", "best_metric")

    every_epochs: Count | None = 1
    """Epochs between checkpoints; null: none by epoch."""
    every_steps: Count | None = None
    """Steps between further checkpoints; null: none by step."""
    keep: Count = 2
    """Number of newest checkpoints that are kept."""
    best_of: str | None = None
    """Also keep the best checkpoint in the store: the lowest validation loss of this task, or, with
    `*`, the lowest mean of all tasks' losses relative to epoch 1."""
    best_metric: Text | None = None
    """The best by this metric of the task that `best_of` names, higher or lower as is better; null:
    by its loss."""
    verify: bool = True
    """Read each checkpoint back from the store before an older one is deleted."""
    offline_minutes: Positive = 30.0
    """Minutes that the run goes on while the store is out of reach; then it fails and keeps its
    files."""
    lease_seconds: Annotated[float, Field(ge=1, le=3600)] = 30.0
    """Seconds that a process without a sign of life keeps the right to write the run."""
    unfenced: bool = False
    """Also run on a store without conditional writes, where two processes could overwrite each
    other."""
    encryption: Encryption | None = None
    """Of all that the run writes to S3; null: the bucket's own. A directory ignores it."""

    @property
    def watched(self) -> str | None:
        """What decides which is the best, as scores are named."""
        return None if self.best_of is None else watched(self.best_of, self.best_metric)

    def rules(self) -> Iterator[BrokenRule]:
        """A metric is of one task."""
        if self.best_metric is not None and self.best_of in (None, "*"):
            rule, remedy = "a metric is of one task", "name the task in best_of, or drop it"
            yield BrokenRule(("best_metric",), rule, remedy)


class DropGate(Section):
    """A task's loss, in original units, must have fallen since epoch 1 by more than a share."""

    task: str
    """Name of the task."""
    drop: Annotated[float, Field(gt=-10, lt=1)]
    """drop = 1 − loss(by_epoch) / loss(1) must exceed this."""
    by_epoch: Annotated[int, Field(ge=2)]
    """Epoch at which the gate is read."""
    split: Literal["train", "validation"] = "train"
    """Split on which the loss is measured, in evaluation mode."""


class SkillGate(Section):
    """A task must beat the strongest trivial prediction."""

    LATER = ("beyond_error",)
    task: str
    """Name of the task."""
    skill: Annotated[float, Field(lt=1)]
    """skill = 1 − loss / trivial loss must exceed this."""
    by_epoch: Count
    """Epoch at which the gate is read."""
    split: Literal["train", "validation"] = "validation"
    """Split on which the loss is measured, in evaluation mode."""
    beyond_error: bool = True
    """The lower end of the skill's 95 % interval must exceed it; false: the skill alone."""


class MetricGate(Section):
    """A metric of a task must be above or below a bound."""

    task: str
    """Name of the task."""
    metric: Text
    """One that the task measures."""
    above: float | None = None
    """It must exceed this; null: no such bound."""
    below: float | None = None
    """It must be less than this; null: no such bound."""
    by_epoch: Count
    """Epoch at which the gate is read."""
    split: Literal["train", "validation"] = "validation"
    """Split on which it is measured, in evaluation mode."""

    def rules(self) -> Iterator[BrokenRule]:
        """There is a bound, and something between two of them."""
        if self.above is None and self.below is None:
            yield BrokenRule(("above",), "a metric's gate needs a bound", "set above or below")
        elif self.above is not None and self.below is not None and self.below <= self.above:
            yield BrokenRule(("below",), "nothing is above and below at once", "swap the two")


class RatioGate(Section):
    """Two tasks' weighted gradients must be of similar size."""

    ratio: tuple[str, str]
    """Numerator and denominator, by task name."""
    between: tuple[Annotated[float, Field(ge=0)], Positive]
    """Smallest and largest ratio allowed, of the norms' means over the epoch's steps."""
    at: Literal["z", "head"] = "z"
    """At the shared representation, or at the heads' output weights."""
    by_epoch: Count | None = None
    """Epoch at which the gate is read; null: the last."""

    def rules(self) -> Iterator[BrokenRule]:
        """The ratio needs two tasks, and the interval must not be empty."""
        if self.ratio[0] == self.ratio[1]:
            yield BrokenRule(("ratio",), "a task's ratio to itself is always 1", "name two tasks")
        if self.between[1] <= self.between[0]:
            yield BrokenRule(
                ("between",), "the largest ratio must exceed the smallest", "swap them"
            )


GATES = ("drop", "skill", "metric", "ratio")


def _gate_kind(gate: object) -> str | None:
    """The key that decides the kind of a gate; None if there is none."""
    for key in GATES:
        if key in gate if isinstance(gate, dict) else hasattr(gate, key):
            return key
    return None


Gate = Annotated[
    Annotated[DropGate, Tag("drop")]
    | Annotated[SkillGate, Tag("skill")]
    | Annotated[MetricGate, Tag("metric")]
    | Annotated[RatioGate, Tag("ratio")],
    Discriminator(
        _gate_kind,
        custom_error_type="gate_kind",
        custom_error_message="a gate needs one of the keys drop, skill, metric, ratio",
    ),
]
