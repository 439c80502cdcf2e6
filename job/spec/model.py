"""The spec's `model` section: the trunk and its heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from job.spec.base import SHA256, BrokenRule, Fraction, Section, Text, Units
from job.spec.own_code import IDENTIFIER, PythonFile

Experts = Annotated[int, Field(ge=1, le=256)]
Layers = Annotated[int, Field(ge=1, le=64)]


class LstmDropout(Section):
    """Shares of values dropped in training."""

    input: Fraction = 0.3
    """At the features."""
    heads: Fraction = 0.6
    """In the heads: at the projection of a window head, at z (one mask for all steps) of a step
    head."""


class Dropout(Section):
    """Shares of values dropped in training."""

    input: Fraction = 0.0
    """At the features."""
    hidden: Fraction = 0.1
    """In the layers of the trunk."""
    heads: Fraction = 0.1
    """In the heads: at the projection of a sample's head, at z (one mask for all positions) of a
    step's head."""


class LstmInit(Section):
    """Initial values of the parameters."""

    lstm: Literal["default", "orthogonal"] = "orthogonal"
    """`orthogonal`: orthogonal input and recurrent matrices per gate, forget bias 1; `default`:
    torch's uniform."""
    heads: Literal["default", "target_mean"] = "target_mean"
    """`target_mean`: a head's output biases start where it predicts the mean of its training
    target; `default`: torch's uniform."""


class Init(Section):
    """Initial values of the parameters; those of the trunk are torch's."""

    heads: Literal["default", "target_mean"] = "target_mean"
    """`target_mean`: a head's output biases start where it predicts the mean of its training
    target; `default`: torch's uniform."""


class Mmoe(Section):
    """Multi-gate mixture of experts between trunk and heads (Ma et al. 2018)."""

    kind: Literal["mmoe"]
    """Experts that all tasks share, and a gate of each task."""
    count: Experts = 4
    """Experts."""
    width: Units = 64
    """Outputs of an expert."""


class Ple(Section):
    """Progressive layered extraction between trunk and heads (Tang et al. 2020)."""

    kind: Literal["ple"]
    """Shared experts and experts of each task, and gates of each task."""
    count: Experts = 2
    """Experts that all tasks share, in each level."""
    own: Experts = 2
    """Experts of each task, in each level."""
    levels: Annotated[int, Field(ge=1, le=8)] = 1
    """Extraction levels; 1 is a customized gate control (CGC)."""
    width: Units = 64
    """Outputs of an expert."""


Mixture = Annotated[Mmoe | Ple, Field(discriminator="kind")]


class Pretrained(Section):
    """Tensors of another network to begin with."""

    path: Text
    """A .safetensors file, such as a run's model.safetensors, relative to the spec, or
    s3://bucket/key; names may begin with `model.`."""
    sha256: Annotated[str, Field(pattern=SHA256)]
    """SHA-256 of the file, in hex."""
    parts: Annotated[tuple[Text, ...], Field(min_length=1)] = ("trunk.*",)
    """Which of the network's parameters come from the file, by patterns of their names; the
    statistics of normalizations, too."""

    def rules(self) -> Iterator[BrokenRule]:
        """The file is of the one format that holds tensors and nothing that could run."""
        if not self.path.endswith(".safetensors"):
            yield BrokenRule(("path",), "must end in .safetensors", "save it with safetensors")


class StartFrom(Section):
    """A run whose network this one begins with."""

    run: Text
    """The run's folder, relative to the spec; its id, or <name>/<id>, in this run's store; or
    s3://bucket/prefix/<name>/<id>."""
    checkpoint: Annotated[int, Field(ge=0)] | Literal["best", "last"] = "last"
    """Which of its checkpoints: the best, the newest, or that of a step."""
    parts: Literal["all"] | Annotated[tuple[Text, ...], Field(min_length=1)] = ("trunk",)
    """Which of the network's parameters come from it: modules, or patterns of parameters' names;
    the statistics of normalizations, too. `all`: every one, heads included."""
    freeze: tuple[Text, ...] = ()
    """Parameters that do not train, by modules or patterns, besides those of model.freeze."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """The parts as patterns."""
        return ("*",) if isinstance(self.parts, str) else self.parts


class Begins(Section):
    """How a network begins."""

    LATER: ClassVar[tuple[str, ...]] = ("weights", "start_from", "freeze")
    weights: Pretrained | None = None
    """What the network begins with; null: random numbers."""
    start_from: StartFrom | None = None
    """A run whose network it begins with; null: none."""
    freeze: tuple[Text, ...] = ()
    """Parameters that do not train, by patterns of their names, such as `trunk.*`."""

    @property
    def frozen(self) -> tuple[str, ...]:
        """Patterns of all parameters that do not train."""
        return self.freeze + (self.start_from.freeze if self.start_from else ())

    def rules(self) -> Iterator[BrokenRule]:
        """A network begins with one thing."""
        if self.weights is not None and self.start_from is not None:
            rule = "a network begins with a file or with a run, and weights names a file"
            yield BrokenRule(("start_from",), rule, "remove one of the two")


class Heads(Begins):
    """What stands between a trunk and the tasks' outputs."""

    LATER = ("experts", *Begins.LATER)
    projection: Units = 64
    """Width of the layer in the head of a sample's task."""
    experts: Mixture | None = None
    """Experts between trunk and heads; null: the heads read the trunk."""


class Lstm(Heads):
    """LSTM over a sequence; a linear map per step or a pooled projection per window task."""

    kind: Literal["jade", "lstm"] = "jade"
    """The LSTM; `jade` and `lstm` are the same."""
    hidden: Units = 96
    """Units per direction; the shared representation z has 2 × hidden features."""
    layers: Annotated[int, Field(ge=1, le=8)] = 1
    """LSTM layers."""
    bidirectional: bool = True
    """Read the sequence in both directions."""
    dropout: LstmDropout = LstmDropout()
    """Dropout at both ends of the trunk."""
    init: LstmInit = LstmInit()
    """Initial values of trunk and heads."""


class Mlp(Heads):
    """Linear maps with ReLU, of a whole sample at once."""

    kind: Literal["mlp"]
    """A multilayer perceptron, for tables."""
    hidden: Annotated[tuple[Units, ...], Field(min_length=1)] = (256, 256)
    """Width of each layer; the last is that of the shared representation z."""
    dropout: Dropout = Dropout()
    """Dropout in trunk and heads."""
    init: Init = Init()
    """Initial values of the heads."""


class Conv1d(Heads):
    """Dilated convolutions with residuals over a sequence (Bai, Kolter and Koltun 2018)."""

    kind: Literal["conv1d"]
    """Convolutions, for sequences; the last layer sees kernel × 2^layers steps, about."""
    width: Units = 64
    """Channels of each layer, and features of the shared representation z."""
    layers: Layers = 6
    """Layers; each has twice the dilation of the one before."""
    kernel: Annotated[int, Field(ge=2, le=129)] = 3
    """Steps that a layer looks at."""
    causal: bool = False
    """A step sees itself and earlier ones alone."""
    dropout: Dropout = Dropout()
    """Dropout in trunk and heads."""
    init: Init = Init()
    """Initial values of the heads."""

    def rules(self) -> Iterator[BrokenRule]:
        """The dilation fits a sequence."""
        yield from super().rules()
        if self.layers > 24:
            rule = f"{self.layers} layers have a dilation of 2^{self.layers - 1} steps"
            yield BrokenRule(("layers",), rule, "set it to 24 or less")


class Conv2d(Heads):
    """A small residual network over images (He et al. 2016)."""

    kind: Literal["conv2d"]
    """Convolutions, for images."""
    width: Units = 32
    """Channels of the first stage; each stage has twice those of the one before."""
    blocks: Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1)] = (1, 1)
    """Residual blocks of each stage; a stage halves height and width, unless a task has a target
    for each pixel."""
    dropout: Dropout = Dropout()
    """Dropout in trunk and heads."""
    init: Init = Init()
    """Initial values of the heads."""


class Transformer(Heads):
    """A transformer's encoder over a sequence, norms first (Xiong et al. 2020)."""

    kind: Literal["transformer"]
    """Attention, for sequences."""
    width: Units = 64
    """Features of each layer, and of the shared representation z."""
    layers: Layers = 2
    """Layers."""
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    """Attention heads of a layer; they divide the width."""
    feedforward: Units | None = None
    """Width inside a layer; null: 4 × width."""
    dropout: Dropout = Dropout()
    """Dropout in trunk and heads."""
    init: Init = Init()
    """Initial values of the heads."""

    def rules(self) -> Iterator[BrokenRule]:
        """Each attention head has the same part of the width."""
        yield from super().rules()
        if self.width % self.heads:
            rule = f"{self.heads} heads do not divide a width of {self.width}"
            yield BrokenRule(("heads",), rule, "choose a divisor of the width")


class Python(PythonFile, Begins):
    """A network of one's own, made by a function of a Python file (docs/networks.md)."""

    kind: Literal["python"]
    """A network of one's own."""
    build: Annotated[str, Field(pattern=IDENTIFIER)] = "build"
    """Name of the function that makes it."""


def _kind(model: object) -> object:
    """The kind of a model; an LSTM if it is not named."""
    kind = model.get("kind", "jade") if isinstance(model, dict) else getattr(model, "kind", "jade")
    return "lstm" if kind == "jade" else kind


KINDS = ("lstm", "mlp", "conv1d", "conv2d", "transformer", "python")
BuiltInModel = Lstm | Mlp | Conv1d | Conv2d | Transformer
Model = Annotated[
    Annotated[Lstm, Tag("lstm")]
    | Annotated[Mlp, Tag("mlp")]
    | Annotated[Conv1d, Tag("conv1d")]
    | Annotated[Conv2d, Tag("conv2d")]
    | Annotated[Transformer, Tag("transformer")]
    | Annotated[Python, Tag("python")],
    Discriminator(
        _kind,
        custom_error_type="model_kind",
        custom_error_message=f"the kind of a model is one of {', '.join(KINDS)} (or jade, an lstm)",
    ),
]
