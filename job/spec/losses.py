"""The kinds of loss that a task may have, and what each makes of a target and a head's outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from job.spec.base import BrokenRule, Fraction, Section, Size
from job.spec.own_code import IDENTIFIER, PythonFile

Focus = Annotated[float, Field(ge=0, le=10)]
Level = Annotated[float, Field(gt=0, lt=1)]


class LossSection(Section):
    """Base class of all losses.

    An element is what a loss gives one number for: an output of a prediction, or the prediction.
    """

    of_classes: ClassVar[bool] = False
    """True if the target holds a class number per prediction, and so has no last axis."""
    whole: ClassVar[bool] = False
    """True if all outputs of a prediction have one loss together; its target has all of them."""
    reads: ClassVar[str] = ""
    """What it takes a head's outputs for, if it applies its own activation. Such a loss is in nats,
    the same in transformed and in original units."""
    untransformed: ClassVar[str] = ""
    """Why its target may have no transform; "" if it may."""

    def width(self, outputs: int) -> int:
        """Numbers that a head gives for each prediction."""
        return outputs


class CrossEntropy(LossSection):
    """Cross-entropy over classes 0 … outputs-1, in nats."""

    LATER = ("smoothing", "focal")
    of_classes = True
    reads = "logits"
    untransformed = "predicts classes, which have no scale to transform"
    kind: Literal["cross_entropy"]
    """Cross-entropy."""
    smoothing: Fraction = 0.0
    """Label smoothing: the share of each label that is spread evenly over all classes
    (Szegedy et al. 2016)."""
    focal: Focus = 0.0
    """Gamma of the focal loss: each class's term is multiplied by (1 - its probability)^gamma, so
    that easy elements count little (Lin et al. 2017)."""


class BinaryCrossEntropy(LossSection):
    """Cross-entropy of independent 0/1 outputs, in nats."""

    LATER = ("smoothing", "focal")
    reads = "logits"
    untransformed = "predicts classes, which have no scale to transform"
    kind: Literal["binary_cross_entropy"]
    """Binary cross-entropy."""
    smoothing: Fraction = 0.0
    """Label smoothing: the share of each label that is spread evenly over 0 and 1."""
    focal: Focus = 0.0
    """Gamma of the focal loss, as for cross_entropy."""


class Ordinal(LossSection):
    """Cross-entropy over ordered classes 0 … outputs-1, in nats (CORN; Shi, Cao and Raschka 2021).

    The head has outputs-1 logits. The k-th is of "above k, if at least k".
    """

    of_classes = True
    reads = "logits"
    untransformed = "predicts classes, which have no scale to transform"
    kind: Literal["ordinal"]
    """Ordered classes."""

    def width(self, outputs: int) -> int:
        """One logit for each step from a class to the next."""
        return outputs - 1


class Huber(LossSection):
    """Quadratic up to delta, linear beyond (Huber 1964)."""

    kind: Literal["huber"]
    """Huber loss."""
    delta: Size = 1.0
    """Where the quadratic part ends, in units of the (transformed) target."""


class MeanSquare(LossSection):
    """Mean squared error."""

    kind: Literal["mse"]
    """Mean squared error."""


class MeanAbsolute(LossSection):
    """Mean absolute error."""

    kind: Literal["mae"]
    """Mean absolute error."""


class Quantile(LossSection):
    """Pinball loss of several quantiles, mean over the levels (Koenker and Bassett 1978).

    The head has a number for each output and level.
    """

    kind: Literal["quantile"]
    """Quantiles."""
    levels: Annotated[tuple[Level, ...], Field(min_length=1, max_length=99)] = (0.1, 0.5, 0.9)
    """Share of targets below each predicted quantile, in rising order."""

    def width(self, outputs: int) -> int:
        """All levels of the first output, then those of the next one."""
        return outputs * len(self.levels)

    def rules(self) -> Iterator[BrokenRule]:
        """Each level is above the one before it."""
        for i, (level, before) in enumerate(zip(self.levels[1:], self.levels, strict=False), 1):
            if level <= before:
                yield BrokenRule(
                    ("levels", i),
                    f"levels are in rising order, and {level:g} is not above {before:g}",
                    "sort the levels, and write each once",
                )


class PoissonNLL(LossSection):
    """Negative log-likelihood of counts, in nats above that of the counts themselves as rates.

    The head gives the logarithm of the rate. This is half the Poisson deviance, so 0 is a perfect
    prediction and skill is the deviance explained (D²).
    """

    reads = "log rates"
    untransformed = "is of counts as they are"
    kind: Literal["poisson_nll"]
    """Counts."""


class GaussianNLL(LossSection):
    """Negative log-likelihood of a normal distribution, in nats above that of a perfect prediction.

    The head gives a mean and a number for the variance (Nix and Weigend 1994). A perfect prediction
    is the target itself with the least standard deviation, `floor`.
    """

    reads = "means and log variances"
    kind: Literal["gaussian_nll"]
    """Mean and standard deviation."""
    floor: Annotated[float, Field(ge=1e-6, le=1e6)] = 0.01
    """Least standard deviation, in units of the (transformed) target. Skill depends on it: the loss
    of the trivial prediction is about ln(deviation / floor) + 1/2."""

    def width(self, outputs: int) -> int:
        """Mean and log variance of the first output, then those of the next one."""
        return 2 * outputs


class Ranking(LossSection):
    """Logistic loss of the pairs in a list, in nats (RankNet; Burges et al. 2005).

    The outputs are the scores of a list's items, the targets their relevances. The loss is the mean
    over the pairs of items with different relevances. Equal scores have ln 2.
    """

    whole = True
    reads = "scores"
    untransformed = "reads the order of the relevances alone"
    kind: Literal["ranking"]
    """Order of the items in a list."""


class PythonLoss(PythonFile, LossSection):
    """A loss of one's own, a function of a Python file (docs/losses.md)."""

    kind: Literal["python"]
    """A loss of one's own."""
    name: Annotated[str, Field(pattern=IDENTIFIER)] = "loss"
    """Name of the function: (prediction, target, **options) -> losses, all of one shape."""


Loss = Annotated[
    CrossEntropy
    | BinaryCrossEntropy
    | Ordinal
    | Huber
    | MeanSquare
    | MeanAbsolute
    | Quantile
    | PoissonNLL
    | GaussianNLL
    | Ranking
    | PythonLoss,
    Field(discriminator="kind"),
]

CATEGORICAL = ("cross_entropy", "binary_cross_entropy", "ordinal")
"""Kinds that predict the probabilities of classes."""
SECTIONS: dict[str, type[LossSection]] = {
    get_args(section.model_fields["kind"].annotation)[0]: section
    for section in get_args(get_args(Loss)[0])
    if section is not PythonLoss
}
"""Kind of built-in loss → its section."""
NATS = tuple(kind for kind, section in SECTIONS.items() if section.reads)

COMPOUND = frozenset(" */·^²³-")
"""Characters of a unit that has several parts."""


def loss_unit(kind: str, unit: str) -> str:
    """Unit of a loss of that kind on a target in `unit`; "" if it has none.

    Likelihoods are in nats, whatever the target's unit; `mse` is in the target's unit squared. That
    of a loss of one's own is not known.
    """
    if kind == "python":
        return ""
    if kind in NATS:
        return "nats"
    if kind != "mse" or not unit:
        return unit
    return f"({unit})²" if COMPOUND & set(unit) else f"{unit}²"
