"""The spec's `tasks` section: a target, a transform, a loss and metrics per task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from job.spec.base import TASK_NAME, BrokenRule, Section, Size, Text, Units
from job.spec.losses import CATEGORICAL, Loss
from job.spec.own_code import IDENTIFIER, PythonFile


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


_Level = Literal["window", "step", "sample", "position"]


def _level(value: object) -> object:
    return {"sample": "window", "position": "step"}.get(str(value), value)


MetricName = Literal[
    "accuracy",
    "macro_f1",
    "macro_precision",
    "macro_recall",
    "f1",
    "precision",
    "recall",
    "auroc",
    "average_precision",
    "calibration_error",
    "mae",
    "rmse",
    "r2",
    "crossing",
    "coverage",
    "pair_accuracy",
]


class Metric(NamedTuple):
    """A measure of predictions beside targets."""

    meaning: str
    needs: str = "a known target"
    """What the split must hold for a value."""
    higher_is_better: bool | None = True
    """None if neither is: it should be near a value of its own."""
    has_unit: bool = False
    """True if it is in the target's unit."""


METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        "share of right predictions; a 0/1 output is predicted 1 above a probability of 0.5"
    ),
    "macro_f1": Metric(
        "F1, mean over the classes that are predicted or in the targets",
    ),
    "macro_precision": Metric("precision, mean over the same classes; 0 if never predicted"),
    "macro_recall": Metric("recall, mean over the same classes; 0 if not in the targets"),
    "f1": Metric("F1 of the ones", "a one, predicted or in the targets"),
    "precision": Metric("share of ones among those predicted", "a probability above 0.5"),
    "recall": Metric("share of the ones that are predicted", "a one in the targets"),
    "auroc": Metric("area under the ROC curve, ties counted half", "both ones and zeros"),
    "average_precision": Metric(
        "area under the precision-recall curve, by steps", "a one in the targets"
    ),
    "calibration_error": Metric(
        "mean distance of predicted probability and observed share, in 15 bins weighted by their "
        "elements; of classes: of the most probable one",
        higher_is_better=False,
    ),
    "mae": Metric("mean absolute error", higher_is_better=False, has_unit=True),
    "rmse": Metric("root of the mean squared error", higher_is_better=False, has_unit=True),
    "r2": Metric("1 − squared errors / squared distances to the mean", "targets that differ"),
    "crossing": Metric(
        "share of the predictions in which a lower level is above a higher one",
        higher_is_better=False,
    ),
    "coverage": Metric(
        "share of the targets from the lowest to the highest predicted quantile, or within 1.645 "
        "standard deviations (90 %) of the predicted mean",
        higher_is_better=None,
    ),
    "pair_accuracy": Metric(
        "share of a list's pairs in the right order, equal scores count half; mean over the lists",
        "a list with different relevances",
    ),
}
OF_CLASSES: tuple[str, ...] = (
    *("accuracy", "macro_f1", "calibration_error"),
    *("macro_precision", "macro_recall"),
)
OF_BINARY: tuple[str, ...] = (
    *("accuracy", "auroc", "average_precision", "calibration_error"),
    *("f1", "precision", "recall"),
)
OF_ORDERED: tuple[str, ...] = (
    *("accuracy", "mae", "macro_f1"),
    *("macro_precision", "macro_recall"),
)
OF_NUMBERS: tuple[str, ...] = ("mae", "rmse", "r2")
OF_QUANTILES: tuple[str, ...] = (*OF_NUMBERS, "crossing", "coverage")
OF_NORMALS: tuple[str, ...] = (*OF_NUMBERS, "coverage")
OF_LISTS: tuple[str, ...] = ("pair_accuracy",)
MEASURABLE: dict[str, tuple[str, ...]] = {
    "cross_entropy": OF_CLASSES,
    "binary_cross_entropy": OF_BINARY,
    "ordinal": OF_ORDERED,
    "quantile": OF_QUANTILES,
    "gaussian_nll": OF_NORMALS,
    "ranking": OF_LISTS,
}
DEFAULTS = {
    "cross_entropy": OF_CLASSES[:3],
    "binary_cross_entropy": OF_BINARY[:4],
    "ordinal": OF_ORDERED[:3],
}


def metrics_of(loss: str) -> tuple[str, ...]:
    """The metrics that a kind of loss has."""
    return MEASURABLE.get(loss, OF_NUMBERS)


def default_metrics(loss: str) -> tuple[str, ...]:
    """Those that are measured unless the task names its own."""
    return DEFAULTS.get(loss, metrics_of(loss))


class PythonMetric(PythonFile):
    """A metric of one's own, a function of a Python file (docs/verdict.md)."""

    name: Annotated[str, Field(pattern=IDENTIFIER)]
    """Name of the function, (prediction, target, **options) -> number, and of the metric."""
    higher_is_better: bool
    """Which way early stop and the best checkpoint read it."""


LIGHTEST, HEAVIEST = 1e-6, 1e6
"""Weights of a class, at least and at most."""


class Head(Section):
    """The layers of a task's head before its output."""

    hidden: tuple[Units, ...] | None = None
    """Width of each layer, with ReLU; null: one of `model.projection` for a sample's task, none for
    a task of positions."""
    share: Annotated[str, Field(pattern=TASK_NAME)] | None = None
    """Tasks that name the same `share` have these layers in common; null: they are its own."""


class Task(Section):
    """One task: a head, a target and a loss."""

    LATER = ("metrics", "own_metrics", "missing", "class_weight", "sample_weight", "head")
    name: Annotated[str, Field(pattern=TASK_NAME)]
    """Name of the task in every record."""
    target: Text | None = None
    """Name of the target in the data; null: the task's name."""
    level: Annotated[
        Literal["window", "step"], BeforeValidator(_level, json_schema_input_type=_Level)
    ]
    """One prediction per window, or one per time step; other words are `sample` for `window`, and
    `position` for `step`, where positions are tokens or pixels."""
    outputs: Units = 1
    """Outputs per prediction; the number of classes for cross_entropy and ordinal, the number of
    items in a list for ranking."""
    loss: Loss
    """The loss to minimise."""
    transform: Transform = NoTransform()
    """Transform of the target before the loss; predictions are reported untransformed."""
    activation: Literal["identity", "sigmoid", "tanh", "relu"] = "identity"
    """Function applied to the head's outputs, before the transform is undone."""
    unit: str = ""
    """Unit of the target, shown beside losses."""
    missing: Literal["error", "skip"] = "error"
    """What a missing label does, which is NaN, or also -1 among classes: it is refused, or it is
    left out of loss, gradient, transform, baselines and skill."""
    class_weight: Literal["balanced"] | tuple[float, ...] | None = None
    """Weights of the classes in the loss: one for each class of cross_entropy and ordinal, the
    weights of 0 and of 1 for binary_cross_entropy; balanced: n / (classes x count of the class) in
    training."""
    sample_weight: Text | None = None
    """Name of an array [N] in the data, 0 or above: the weight of each sample in the loss."""
    metrics: tuple[MetricName, ...] | None = None
    """What else is measured of its predictions after each epoch (docs/verdict.md); null: what fits
    the loss."""
    own_metrics: tuple[PythonMetric, ...] = ()
    """Metrics of one's own, measured as well."""
    head: Head = Head()
    """The layers before its output."""

    def hidden(self, projection: int) -> tuple[int, ...]:
        """Widths of the layers before its output; projection: as the model has it."""
        if self.head.hidden is not None:
            return self.head.hidden
        return () if self.level == "step" else (projection,)

    @property
    def built_in_metrics(self) -> tuple[str, ...]:
        """Names of the built-in metrics that are measured."""
        return default_metrics(self.loss.kind) if self.metrics is None else self.metrics

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of all metrics that are measured."""
        return (*self.built_in_metrics, *(own.name for own in self.own_metrics))

    def higher_is_better(self, metric: str) -> bool | None:
        """Which way is better, of a metric that is measured; None if neither is."""
        own = {each.name: each.higher_is_better for each in self.own_metrics}
        return own[metric] if metric in own else METRICS[metric].higher_is_better

    @property
    def head_width(self) -> int:
        """Numbers that the task's head gives for each prediction."""
        return self.loss.width(self.outputs)

    @property
    def source(self) -> str:
        """Name of the target in the data."""
        return self.target or self.name

    def rules(self) -> Iterator[BrokenRule]:
        """A loss with an activation of its own takes raw outputs, most of them raw targets."""
        kind, loss = self.loss.kind, self.loss
        if loss.untransformed and self.transform.kind != "none":
            yield BrokenRule(("transform",), f"{kind} {loss.untransformed}", "remove transform")
        if loss.reads and self.activation != "identity":
            yield BrokenRule(
                ("activation",),
                f"{kind} takes {loss.reads} and applies its own activation",
                "remove activation",
            )
        if (loss.of_classes or loss.whole) and self.outputs < 2:
            parts = "classes" if loss.of_classes else "items"
            yield BrokenRule(
                ("outputs",),
                f"{kind} needs at least 2 {parts}",
                f"set outputs to the number of {parts}",
            )
        yield from self._weight_rules()
        yield from self._metric_rules()

    def _weight_rules(self) -> Iterator[BrokenRule]:
        """Class weights fit the loss and its classes."""
        kind = self.loss.kind
        if self.class_weight is not None and kind not in CATEGORICAL:
            yield BrokenRule(
                ("class_weight",),
                f"{kind} has no classes to weigh",
                "remove class_weight; sample_weight gives each sample a weight",
            )
        elif isinstance(self.class_weight, tuple):
            wanted = self.outputs if self.loss.of_classes else 2
            what = "one for each class" if self.loss.of_classes else "of 0 and of 1"
            if len(self.class_weight) != wanted:
                yield BrokenRule(
                    ("class_weight",),
                    f"{kind} needs {wanted} weights, {what}; there are {len(self.class_weight)}",
                    f"write {wanted} weights",
                )
            for i, weight in enumerate(self.class_weight):
                if not LIGHTEST <= weight <= HEAVIEST:
                    yield BrokenRule(
                        ("class_weight", i),
                        f"a class weighs {LIGHTEST:g} to {HEAVIEST:g}",
                        "write a weight of that size",
                    )

    def _metric_rules(self) -> Iterator[BrokenRule]:
        """A metric fits the loss, and is named once."""
        known, names = metrics_of(self.loss.kind), self.metrics or ()
        for i, name in enumerate(names):
            if name not in known:
                rule = f"{self.loss.kind} has no such metric; it has {', '.join(known)}"
                yield BrokenRule(("metrics", i), rule, "name one of these")
            elif name in names[:i]:
                yield BrokenRule(("metrics", i), "the metric is named twice", "remove one")
        for i, own in enumerate(self.own_metrics):
            if own.name in METRICS or own.name in [each.name for each in self.own_metrics[:i]]:
                rule = "there is a metric of that name"
                yield BrokenRule(("own_metrics", i, "name"), rule, "rename the function")
