"""The job spec: every field, its bounds, and the rules between fields.

A spec is one frozen value. Nothing in the trainer reads a flag or an environment variable for
what a run computes; secrets and endpoints are never in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Size = Annotated[float, Field(ge=1e-38, le=1e38)]
"""A positive number that float32 has."""
Units = Annotated[int, Field(ge=1, le=65536)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Text = Annotated[str, Field(min_length=1)]
NAME = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
TASK_NAME = r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$"
CUDA = r"^[0-9]+\.[0-9]+$"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
RUNPOD_NAME = r"^[A-Za-z0-9_-]{1,128}$"


class Broken(NamedTuple):
    """A rule between fields that does not hold."""

    where: tuple[str | int, ...]
    """Path, from this section, of the field to edit."""
    rule: str
    """What is required, with what was found."""
    remedy: str
    """What to edit."""


class Section(BaseModel):
    """What all parts of a spec share: frozen, strict, nothing unknown in it, all rules told."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    def rules(self) -> Iterator[Broken]:
        """The rules between this section's fields that do not hold."""
        yield from ()

    @model_validator(mode="after")
    def _hold(self) -> Self:
        if found := list(self.rules()):
            told = "; ".join(broken.rule for broken in found)
            raise PydanticCustomError(
                "rules", "{told}", {"told": told, "broken": found, "section": self}
            )
        return self


# --- data -------------------------------------------------------------------------------------


class OhlcWindows(Section):
    """Windows of dated open/high/low/close bars, labelled by their strongest directional move."""

    kind: Literal["ohlc_windows"]
    """Windows of dated OHLC bars."""
    path: Text
    """CSV, CSV.gz or Parquet with columns date, open, high, low, close; relative to the spec."""
    date_format: Text | None = None
    """strptime format of the date column, e.g. `%m/%d/%Y`; null: ISO 8601."""
    window: Annotated[int, Field(ge=8, le=4096)] = 105
    """Bars in a window."""
    search: tuple[Count, Count] = (30, 74)
    """First and last bar of a window, counted from 0, between which the expansion is sought."""
    lengths: tuple[Count, Count] = (5, 20)
    """Shortest and longest expansion, in bars."""
    flat_below: Annotated[float, Field(ge=0)] = 2.0
    """An expansion weaker than this many standard deviations is of type `flat`."""
    countdown_clip: Positive = 20.0
    """The countdown to the expansion's start is clipped to ± this many bars."""
    windows: Annotated[int, Field(ge=2, lt=2**31)] | None = None
    """How many windows, their starts evenly spaced; null: one at every bar."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the windows, the latest ones, held out after a gap of one window."""

    def rules(self) -> Iterator[Broken]:
        """The labels must fit into the window, and the bars lie in a file."""
        if self.path.startswith("s3://"):
            yield Broken(("path",), "bars are read from a file", "download them to beside the spec")
        first, last = self.search
        shortest, longest = self.lengths
        if last >= self.window:
            yield Broken(
                ("window",),
                f"the search for the expansion ends at bar {last}, outside a window of "
                f"{self.window} bars",
                f"set window to at least {last + 1} or end the search earlier",
            )
        if longest < shortest:
            yield Broken(
                ("lengths",), "the longest expansion is shorter than the shortest", "swap them"
            )
        if last - first + 1 < longest:
            yield Broken(
                ("search",),
                f"an expansion of {longest} bars does not fit between bars {first} and {last}",
                "widen search or lower the longest of lengths",
            )


class Arrays(Section):
    """Any domain: features and named targets, stored as arrays."""

    kind: Literal["arrays"]
    """Stored arrays."""
    path: Text
    """.npz, .safetensors or .parquet, relative to the spec, or s3://bucket/key."""
    features: Text = "features"
    """Name of the features: [N, T, F], or [N, F] which is read as T = 1."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the samples held out."""
    split: Literal["tail", "random"] = "tail"
    """Which samples are held out: the last ones, or a draw by the spec's seed."""


Data = Annotated[OhlcWindows | Arrays, Field(discriminator="kind")]

# --- model ------------------------------------------------------------------------------------


class Dropout(Section):
    """Shares of values dropped in training."""

    input: Fraction = 0.3
    """At the features."""
    heads: Fraction = 0.6
    """In the heads: at the projection of a window head, at z (one mask for all steps) of a step
    head."""


class Init(Section):
    """How parameters start."""

    lstm: Literal["default", "orthogonal"] = "orthogonal"
    """`orthogonal`: orthogonal input and recurrent matrices per gate, forget bias 1; `default`:
    torch's uniform."""
    heads: Literal["default", "target_mean"] = "target_mean"
    """`target_mean`: a head's output biases start where it predicts the mean of its training
    target; `default`: torch's uniform."""


class Jade(Section):
    """Bidirectional LSTM trunk; a linear map per step or a pooled projection per window task."""

    kind: Literal["jade"] = "jade"
    """The BiLSTM."""
    hidden: Units = 96
    """Units per direction; the shared representation z has 2 × hidden features."""
    layers: Annotated[int, Field(ge=1, le=8)] = 1
    """LSTM layers."""
    bidirectional: bool = True
    """Read the sequence in both directions."""
    projection: Units = 64
    """Width of a window head's projection."""
    dropout: Dropout = Dropout()
    """Dropout at both ends of the trunk."""
    init: Init = Init()
    """Where trunk and heads start."""


# --- tasks ------------------------------------------------------------------------------------


class CrossEntropy(Section):
    """Cross-entropy over classes 0 … outputs-1, in nats."""

    kind: Literal["cross_entropy"]
    """Cross-entropy."""


class BinaryCrossEntropy(Section):
    """Cross-entropy of independent 0/1 outputs, in nats."""

    kind: Literal["binary_cross_entropy"]
    """Binary cross-entropy."""


class Huber(Section):
    """Quadratic up to delta, linear beyond (Huber 1964)."""

    kind: Literal["huber"]
    """Huber loss."""
    delta: Size = 1.0
    """Where the quadratic part ends, in units of the (transformed) target."""


class MeanSquare(Section):
    """Mean squared error."""

    kind: Literal["mse"]
    """Mean squared error."""


class MeanAbsolute(Section):
    """Mean absolute error."""

    kind: Literal["mae"]
    """Mean absolute error."""


Loss = Annotated[
    CrossEntropy | BinaryCrossEntropy | Huber | MeanSquare | MeanAbsolute,
    Field(discriminator="kind"),
]
CATEGORICAL = ("cross_entropy", "binary_cross_entropy")


class NoTransform(Section):
    """The target as it is."""

    kind: Literal["none"] = "none"
    """No transform."""


class Standardize(Section):
    """Mean 0 and standard deviation 1 per output, fitted on the training split alone."""

    kind: Literal["standardize"]
    """Mean 0, standard deviation 1."""


class Scale(Section):
    """The target divided by a constant."""

    kind: Literal["scale"]
    """Division by a constant."""
    by: Size
    """The divisor, in units of the target."""


Transform = Annotated[NoTransform | Standardize | Scale, Field(discriminator="kind")]


class Task(Section):
    """One task: a head, a target and a loss."""

    name: Annotated[str, Field(pattern=TASK_NAME)]
    """Its name in every record."""
    target: Text | None = None
    """Name of the target in the data; null: the task's name."""
    level: Literal["window", "step"]
    """One prediction per window, or one per time step."""
    outputs: Units = 1
    """Outputs per prediction; the number of classes for cross_entropy."""
    loss: Loss
    """What is minimised."""
    transform: Transform = NoTransform()
    """Of the target, before the loss; predictions are reported untransformed."""
    activation: Literal["identity", "sigmoid", "tanh", "relu"] = "identity"
    """Applied to the head's outputs, before the transform is undone."""
    unit: str = ""
    """Unit of the target, shown beside losses."""

    @property
    def source(self) -> str:
        """Name of the target in the data."""
        return self.target or self.name

    def rules(self) -> Iterator[Broken]:
        """Losses of classes take raw logits and untransformed targets."""
        kind = self.loss.kind
        if kind in CATEGORICAL and self.transform.kind != "none":
            yield Broken(
                ("transform",),
                f"{kind} predicts classes, which have no scale to transform",
                "remove transform",
            )
        if kind in CATEGORICAL and self.activation != "identity":
            yield Broken(
                ("activation",),
                f"{kind} takes logits and applies its own activation",
                "remove activation",
            )
        if kind == "cross_entropy" and self.outputs < 2:
            yield Broken(
                ("outputs",),
                "cross_entropy needs at least 2 classes",
                "set outputs to the number of classes",
            )


# --- balance ----------------------------------------------------------------------------------


class Weighted(Section):
    """A balancer that starts from weights set by hand."""

    weights: dict[str, Positive] = {}
    """Weight per task; 1 where none is given."""


class Fixed(Weighted):
    """A plain weighted sum."""

    kind: Literal["fixed"] = "fixed"
    """A plain weighted sum."""


class RunningMean(Weighted):
    """Each loss divided by its running mean: the trainer that failed."""

    kind: Literal["running_mean"]
    """By the running mean of the loss."""
    momentum: Fraction = 0.95
    """Of the running mean."""
    warmup: Annotated[int, Field(ge=0, lt=2**31)] = 10
    """Steps over which the plain mean is taken instead."""


class RunningMeanSqrtN(Weighted):
    """running_mean, each weight times the square root of the task's outputs per sample."""

    kind: Literal["running_mean_sqrt_n"]
    """By the running mean of the loss and the square root of the outputs."""
    momentum: Fraction = 0.95
    """Of the running mean."""
    warmup: Annotated[int, Field(ge=0, lt=2**31)] = 10
    """Steps over which the plain mean is taken instead."""


class BatchMean(Weighted):
    """Each loss divided by its own value in the batch, held constant: the gradient of its log."""

    kind: Literal["batch_mean"]
    """By the loss of the batch."""


class Uncertainty(Weighted):
    """Learned homoscedastic uncertainty (Kendall, Gal and Cipolla 2018)."""

    kind: Literal["uncertainty"]
    """By learned variances."""
    lr: LearningRate | None = None
    """Learning rate of the log variances; null: the optimizer's."""


class GradientNorm(Weighted):
    """Equal gradient norms at the shared representation, by a running mean of the norms."""

    kind: Literal["gradient_norm"]
    """By the running mean of the gradient norm."""
    momentum: Fraction = 0.9
    """Of the running mean of the norms."""


class TorchJD(Section):
    """A weighting of the torchjd library, fed with the exact Gram matrix."""

    kind: Literal["torchjd"]
    """By a weighting of torchjd."""
    method: Text
    """Its name in torchjd.aggregation without the ending, e.g. UPGrad, MGDA, IMTLG, AlignedMTL,
    CAGrad, NashMTL."""
    options: dict[str, bool | int | float | str] = {}
    """Arguments of its constructor, e.g. {"c": 0.5} for CAGrad."""


Balance = Annotated[
    Fixed | RunningMean | RunningMeanSqrtN | BatchMean | Uncertainty | GradientNorm | TorchJD,
    Field(discriminator="kind"),
]

# --- optimizer, loop, records -----------------------------------------------------------------


class AdamW(Section):
    """AdamW (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    """AdamW."""
    lr: LearningRate = 1e-3
    """Learning rate."""
    head_lr: LearningRate | None = None
    """Learning rate of the heads; null: lr."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""


class EarlyStop(Section):
    """Stop when a task's validation loss has not improved for some epochs."""

    task: str
    """The task to watch, or `*` for the mean of all tasks' losses relative to epoch 1."""
    patience: Count = 5
    """Epochs without a new minimum."""


class Train(Section):
    """The loop."""

    epochs: Count
    """Passes over the training set."""
    batch_size: Count
    """Samples per step; a last, smaller batch is used as well."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    """Of the learning rate, over all steps. one_cycle: warm-up over 30 % of them, then cosine."""
    clip: Positive | None = None
    """Largest norm of the whole gradient."""
    early_stop: EarlyStop | None = None
    """When to stop before the last epoch; null: never."""
    deterministic: bool = True
    """Only deterministic kernels: a resumed run repeats an undisturbed one bit for bit."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of forward and backward; fp16 scales the loss and skips steps that overflow."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads; null: torch's choice. Sums depend on it in the last bit."""
    evaluate: Count = 8192
    """At most this many training samples, evenly spaced, enter an epoch's training-split loss."""

    def rules(self) -> Iterator[Broken]:
        """What a device cannot do, whichever machine it is in."""
        if self.device == "cpu" and self.precision == "fp16":
            yield Broken(("precision",), "CPUs have no LSTM in fp16", 'set it to "bf16" or "fp32"')


class Log(Section):
    """Events."""

    every: Count = 10
    """Steps between fetches from the device; every step has its event all the same."""
    audit_every: Annotated[int, Field(ge=0, lt=2**31)] = 50
    """Steps between exact measurements of each task's gradient on the shared parameters; 0: never.
    Each costs one trunk backward per task."""


class Checkpoint(Section):
    """What is kept of the run's state."""

    every_epochs: Count | None = 1
    """Epochs between checkpoints."""
    every_steps: Count | None = None
    """Steps between checkpoints, besides."""
    keep: Count = 2
    """How many of the newest are kept."""
    best_of: str | None = None
    """Keep the best one too, by this task's validation loss, or `*` for the mean of all tasks'
    losses relative to epoch 1: the best of those that reached the store."""
    verify: bool = True
    """Read each checkpoint back from the store before an older one is deleted."""
    offline_minutes: Positive = 30.0
    """How long the run goes on while the store is out of reach; then it fails, its files kept."""
    lease_seconds: Annotated[float, Field(ge=1, le=3600)] = 30.0
    """How long a process that shows no life keeps the right to write the run."""
    unfenced: bool = False
    """Run on a store without conditional writes too, where two processes could overwrite each
    other."""


# --- gates ------------------------------------------------------------------------------------


class DropGate(Section):
    """A task's loss, in original units, must have fallen since epoch 1 by more than a share."""

    task: str
    """The task."""
    drop: Annotated[float, Field(gt=-10, lt=1)]
    """drop = 1 − loss(by_epoch) / loss(1) must exceed this."""
    by_epoch: Annotated[int, Field(ge=2)]
    """The epoch at which it is read."""
    split: Literal["train", "validation"] = "train"
    """The split it is read on, in evaluation mode."""


class SkillGate(Section):
    """A task must beat the strongest trivial prediction."""

    task: str
    """The task."""
    skill: Annotated[float, Field(lt=1)]
    """skill = 1 − loss / baseline must exceed this."""
    by_epoch: Count
    """The epoch at which it is read."""
    split: Literal["train", "validation"] = "train"
    """The split it is read on, in evaluation mode."""


class RatioGate(Section):
    """Two tasks' weighted gradients must be of like size."""

    ratio: tuple[str, str]
    """Numerator and denominator, by task name."""
    between: tuple[Annotated[float, Field(ge=0)], Positive]
    """Smallest and largest ratio allowed, of the norms' means over the epoch's steps."""
    at: Literal["z", "head"] = "z"
    """At the shared representation, or at the heads' output weights."""
    by_epoch: Count | None = None
    """The epoch at which it is read; null: the last."""

    def rules(self) -> Iterator[Broken]:
        """Two tasks, and an interval that is not empty."""
        if self.ratio[0] == self.ratio[1]:
            yield Broken(("ratio",), "a task's ratio to itself is always 1", "name two tasks")
        if self.between[1] <= self.between[0]:
            yield Broken(("between",), "the largest ratio must exceed the smallest", "swap them")


GATES = ("drop", "skill", "ratio")


def _gate_kind(gate: object) -> str | None:
    """The key that makes a gate what it is."""
    for key in GATES:
        if key in gate if isinstance(gate, dict) else hasattr(gate, key):
            return key
    return None


Gate = Annotated[
    Annotated[DropGate, Tag("drop")]
    | Annotated[SkillGate, Tag("skill")]
    | Annotated[RatioGate, Tag("ratio")],
    Discriminator(
        _gate_kind,
        custom_error_type="gate_kind",
        custom_error_message="a gate needs one of the keys drop, skill, ratio",
    ),
]

# --- resources --------------------------------------------------------------------------------


class Resources(Section):
    """What to rent, and for how much at most."""

    gpu: tuple[Text, ...] = Field(min_length=1)
    """GPU ids as RunPod's catalogue spells them, in order of preference."""
    gpu_count: Annotated[int, Field(ge=1, le=8)] = 1
    """GPUs in the pod; each trains on its part of every batch."""
    cloud: tuple[Literal["SECURE", "COMMUNITY"], ...] = Field(default=("SECURE",), min_length=1)
    """Pools to search, in order."""
    min_cuda: Annotated[str, Field(pattern=CUDA)] = "12.8"
    """Lowest CUDA version of the host's driver."""
    disk_gb: Annotated[int, Field(ge=5, le=2000)] = 20
    """Container disk."""
    max_price_per_hour: Positive
    """Ceiling in USD per hour for the whole pod."""
    max_hours: Annotated[float, Field(gt=0, le=720)]
    """Deadline from the container's start; the pod ends itself then."""
    start_timeout_minutes: Positive = 20.0
    """From creation to the first heartbeat, image pull included."""
    stall_minutes: Positive = 15.0
    """Without a finished step the run counts as stalled."""
    max_boots: Count = 3
    """Boots without progress before the run counts as a crash loop."""
    secrets: dict[
        Annotated[str, Field(pattern=VARIABLE)], Annotated[str, Field(pattern=RUNPOD_NAME)]
    ] = {}
    """The container's variables that RunPod fills in, and the names of its secrets, e.g.
    {"AWS_ACCESS_KEY_ID": "s3_key"}; never a secret itself."""


# --- the whole --------------------------------------------------------------------------------


class JobSpec(Section):
    """One training job."""

    schema_: str | None = Field(default=None, alias="$schema")
    """Where the JSON Schema of this file is, for editors."""
    name: Annotated[str, Field(pattern=NAME)]
    """Of the job; the first folder in the store and the beginning of a pod's name."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of initialisation, order and dropout."""
    data: Data
    """Where samples come from."""
    model: Jade = Jade()
    """The trunk and its heads."""
    tasks: tuple[Task, ...] = Field(min_length=1)
    """The tasks, in the order of every per-task record."""
    balance: Balance = Fixed()
    """How the tasks' gradients are weighted."""
    optimizer: AdamW = AdamW()
    """The rule of the update."""
    train: Train
    """How long, in what portions and how precisely it trains."""
    log: Log = Log()
    """What is recorded, how often."""
    checkpoint: Checkpoint = Checkpoint()
    """When state is kept, and how much of it."""
    gates: tuple[Gate, ...] = ()
    """What the run must reach; the verdict names each."""
    resources: Resources | None = None
    """What to rent; null: the run is local."""

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks, in order: index k of every [K] tensor."""
        return [task.name for task in self.tasks]

    def rules(self) -> Iterator[Broken]:
        """Names are distinct, what is named exists, gates differ and lie within the run."""
        names = self.task_names
        for k, name in enumerate(names):
            if name in names[:k]:
                yield Broken(
                    ("tasks", k, "name"), f'two tasks are named "{name}"', "give each its own name"
                )
        for where, name in self._references():
            if name not in names:
                yield Broken(
                    where,
                    f'"{name}" is not a task; the tasks are {", ".join(names)}',
                    "name one of the tasks",
                )
        for i, gate in enumerate(self.gates):
            if gate in self.gates[:i]:
                first = self.gates.index(gate)
                yield Broken(("gates", i), f"the same gate stands at gates[{first}]", "remove one")
            if gate.by_epoch is not None and gate.by_epoch > self.train.epochs:
                yield Broken(
                    ("gates", i, "by_epoch"),
                    f"the gate is read at epoch {gate.by_epoch}, the run ends at epoch "
                    f"{self.train.epochs}",
                    "raise train.epochs or lower by_epoch",
                )

    def _references(self) -> list[tuple[tuple[str | int, ...], str]]:
        """Every place that names a task, and the name."""
        found: list[tuple[tuple[str | int, ...], str]] = []
        for i, gate in enumerate(self.gates):
            if isinstance(gate, RatioGate):
                found += [(("gates", i, "ratio", j), name) for j, name in enumerate(gate.ratio)]
            else:
                found.append((("gates", i, "task"), gate.task))
        if isinstance(self.balance, Weighted):
            found += [(("balance", "weights", name), name) for name in self.balance.weights]
        if self.train.early_stop and self.train.early_stop.task != "*":
            found.append((("train", "early_stop", "task"), self.train.early_stop.task))
        if self.checkpoint.best_of is not None and self.checkpoint.best_of != "*":
            found.append((("checkpoint", "best_of"), self.checkpoint.best_of))
        return found

    def canonical(self) -> str:
        """The spec's content as JSON, defaults filled in, keys sorted, `$schema` left out."""
        return json.dumps(self.model_dump(mode="json", exclude={"schema_"}), sort_keys=True)

    def content_hash(self) -> str:
        """SHA-256 of the content, in hex: the same for two spellings of one spec."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()
