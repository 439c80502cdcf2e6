"""The spec's `balance` section: how the tasks' gradients are weighted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from job.spec.base import Fraction, LearningRate, Positive, Section, Text


class Weighted(Section):
    """A balancer that starts from weights set by hand."""

    weights: dict[str, Positive] = {}
    """Weight per task; 1 for a task that is not listed."""


class Fixed(Weighted):
    """A plain weighted sum."""

    kind: Literal["fixed"] = "fixed"
    """A plain weighted sum."""


class RunningMean(Weighted):
    """Each loss divided by its running mean: the method under which tasks starved."""

    kind: Literal["running_mean"]
    """By the running mean of the loss."""
    momentum: Fraction = 0.95
    """Momentum of the running mean."""
    warmup: Annotated[int, Field(ge=0, lt=2**31)] = 10
    """Steps at the start that use the plain mean instead."""


class RunningMeanSqrtN(Weighted):
    """running_mean, with each weight times the square root of the task's outputs per sample."""

    kind: Literal["running_mean_sqrt_n"]
    """By the running mean of the loss and the square root of the outputs."""
    momentum: Fraction = 0.95
    """Momentum of the running mean."""
    warmup: Annotated[int, Field(ge=0, lt=2**31)] = 10
    """Steps at the start that use the plain mean instead."""


class BatchMean(Weighted):
    """Each loss divided by its own value in the batch, held constant: the gradient of its log."""

    kind: Literal["batch_mean"]
    """By the loss of the batch."""


class Uncertainty(Weighted):
    """Learned homoscedastic uncertainty (Kendall, Gal and Cipolla 2018)."""

    kind: Literal["uncertainty"]
    """By learned variances."""
    lr: LearningRate | None = None
    """Learning rate of the log variances; null: the optimizer's lr."""


class GradientNorm(Weighted):
    """Equal gradient norms at the shared representation, by a running mean of the norms."""

    kind: Literal["gradient_norm"]
    """By the running mean of the gradient norm."""
    momentum: Fraction = 0.9
    """Momentum of the running mean of the norms."""


class GradNorm(Weighted):
    """Gradient norms that follow the tasks' training rates (GradNorm, Chen et al. 2018)."""

    kind: Literal["gradnorm"]
    """By weights that follow the training rates."""
    alpha: Annotated[float, Field(ge=0, le=10)] = 1.5
    """How much larger the gradient of a slow task becomes; 0: all norms become equal."""
    lr: LearningRate = 0.025
    """Learning rate of the weights, by their own Adam."""


class TorchJD(Section):
    """A weighting of the torchjd library, fed with the exact Gram matrix, or a scalarizer of it."""

    kind: Literal["torchjd"]
    """By a method of torchjd."""
    method: Text
    """Name of the method in torchjd.aggregation or torchjd.scalarization without its ending, e.g.
    UPGrad, MGDA, IMTLG, AlignedMTL, CAGrad, NashMTL, or FAMO, DWA, STCH, IMTLL, GeometricMean."""
    options: dict[str, bool | int | float | str] = {}
    """Arguments of the method's constructor, e.g. {"c": 0.5} for CAGrad."""


Balance = Annotated[
    Fixed
    | RunningMean
    | RunningMeanSqrtN
    | BatchMean
    | Uncertainty
    | GradientNorm
    | GradNorm
    | TorchJD,
    Field(discriminator="kind"),
]
