"""The events after the last epoch: plots of the predictions, and the test split."""

from __future__ import annotations

from typing import Literal

from job.events.record import Record


class Confusion(Record):
    """How often each class was predicted for each class."""

    output: int | None = None
    """The 0/1 output; left out for a task of classes."""
    counts: list[list[int]]
    """Elements by true class, then by predicted class. A 0/1 output is predicted 1 above a
    probability of 0.5."""


class Confused(Record):
    """A pair of classes that were confused."""

    true: int
    """The true class."""
    predicted: int
    """The predicted one."""
    count: int
    """Elements."""


class Curve(Record):
    """What a threshold on the probability of a class, or of a one, finds.

    A threshold predicts a one for every element whose probability is as high or higher. ROC:
    false / zeros and true / ones. Precision and recall: true / (true + false) and true / ones.
    """

    output: int
    """The class, against all others; or the 0/1 output."""
    ones: int
    """Elements of the class, or ones."""
    zeros: int
    """All others."""
    thresholds: list[float]
    """At most 100, falling: those at which the ones that are found, or the zeros, pass another
    1/48 of all, and the last one."""
    true: list[int]
    """Ones that each threshold finds."""
    false: list[int]
    """Zeros that it takes for ones."""


class Sample(Record):
    """Some elements of a task of numbers, in original units."""

    true: list[float]
    """At most 500, one drawn from each of as many equal parts of all elements."""
    predicted: list[float]
    """What was predicted for each."""
    outputs: list[int]
    """The output that each belongs to."""


class Predictions(Record):
    """A task's predictions beside its labels, for plots; what is beyond a limit is left out."""

    event: Literal["predictions"] = "predictions"
    task: str
    """The task."""
    split: Literal["validation", "test"]
    """The split whose samples were predicted."""
    step: int
    """Steps taken."""
    epoch: int
    """Epochs finished."""
    labels: int
    """Elements with a label; each counts once."""
    confusion: list[Confusion]
    """Of up to 20 classes; or of each of the first 8 of the 0/1 outputs. Empty, as all lists below,
    for other tasks, and where a prediction is not finite."""
    confused: list[Confused]
    """Of more classes, the 20 pairs that were confused most often."""
    curves: list[Curve]
    """Of each of the 8 most frequent classes, or of the first 8 of the 0/1 outputs, with both ones
    and zeros."""
    sample: Sample | None = None
    """Of a task of numbers."""


class FinalTestTask(Record):
    """A task on the test split."""

    loss: float
    """Transformed units, evaluation mode."""
    loss_original: float
    """Original units."""
    trivial_loss_original: float
    """Loss of the strongest trivial prediction on this split, original units."""
    skill: float | None = None
    """1 − loss_original / trivial_loss_original; null if the split cannot tell."""
    skill_error: float | None = None
    """Its standard error over the split's samples."""
    skill_low: float | None = None
    """Lower end of its 95 % interval."""
    metrics: dict[str, float | None]
    """By name; null where the split holds no value of one."""


class FinalTest(Record):
    """The test split, measured once: by the weights that the last epoch has left."""

    event: Literal["test"] = "test"
    step: int
    """Steps taken."""
    epoch: int
    """Epochs finished."""
    samples: int
    """Samples of the split."""
    unmeasurable: dict[str, str] = {}
    """By task, why the split cannot tell a skill; a task whose skill it can tell is left out."""
    tasks: dict[str, FinalTestTask]
    """By task."""
