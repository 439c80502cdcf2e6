"""What plots show of a task's predictions beside its labels, of a bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from job.events import Confused, Confusion, Curve, Sample
from job.model.metrics import middle
from job.spec import Task

MOST_CLASSES = 20
"""Of a whole confusion matrix; of more classes, as many pairs."""
MOST_CURVES = 8
"""Classes, or 0/1 outputs, that have curves."""
STEPS = 48
"""Of a curve in either direction: with its ends it has at most 100 points."""
MOST_POINTS = 500
"""Of a sample of numbers."""

Array = NDArray[Any]


class Plots(NamedTuple):
    """The fields of the event `predictions` that are measured."""

    labels: int
    confusion: list[Confusion] = []
    confused: list[Confused] = []
    curves: list[Curve] = []
    sample: Sample | None = None


def with_curves(task: Task, target: Tensor) -> list[int]:
    """The classes of a target that have curves: the most frequent ones; [] for other tasks."""
    if task.loss.kind != "cross_entropy":
        return []
    counts = torch.bincount(target[target >= 0], minlength=task.outputs)
    found = counts.argsort(descending=True, stable=True)[:MOST_CURVES]
    return sorted(c for c in found.tolist() if counts[c])


def plot(task: Task, summary: Tensor, target: Tensor, curved: Sequence[int] = ()) -> Plots:
    """The plots of `job.model.metrics.summarize` for n samples, beside their target [n, …].

    Elements without a label are left out. curved: the classes whose probabilities it holds.
    """
    rows, wanted = summary.cpu().flatten(0, -2).numpy(), target.cpu().numpy()
    known = wanted >= 0 if wanted.dtype.kind == "i" else ~np.isnan(wanted)
    labels = int(known.sum())
    if not np.isfinite(rows).all():
        return Plots(labels)
    match task.loss.kind:
        case "cross_entropy":
            known = known.reshape(-1)
            return _of_classes(labels, task.outputs, wanted.reshape(-1)[known], rows[known], curved)
        case "ordinal":
            known = known.reshape(-1)
            return _of_classes(labels, task.outputs, wanted.reshape(-1)[known], rows[known])
        case "binary_cross_entropy":
            return _of_binary(labels, wanted.reshape(rows.shape), rows)
        case "ranking":  # its scores have no unit
            return Plots(labels)
        case _:
            points = rows.reshape(len(rows), task.outputs, -1)[..., middle(task.loss)]
            return Plots(labels, sample=sampled(wanted.reshape(points.shape), points))


def _of_classes(
    labels: int, outputs: int, target: Array, rows: Array, curved: Sequence[int] = ()
) -> Plots:
    """Of N labelled elements: the class [N], and their rows of a summary [N, 2 + C]."""
    pairs = target * outputs + rows[:, 0].astype(np.int64)
    curves = [curve(c, rows[:, 2 + i], target == c) for i, c in enumerate(curved)]
    drawn = [each for each in curves if each.zeros]
    if outputs <= MOST_CLASSES:
        counts = np.bincount(pairs, minlength=outputs**2).reshape(outputs, outputs)
        return Plots(labels, [Confusion(counts=counts.tolist())], curves=drawn)
    wrong, counts = np.unique(pairs[target != rows[:, 0]], return_counts=True)
    most = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
    confused = [
        Confused(true=pair // outputs, predicted=pair % outputs, count=count)
        for pair, count in zip(wrong[most].tolist(), counts[most].tolist(), strict=True)
    ]
    return Plots(labels, confused=confused, curves=drawn)


def _of_binary(labels: int, target: Array, probability: Array) -> Plots:
    """Of N elements of O outputs, each [N, O]: 0, 1 or NaN, and the probability of 1."""
    confusion, curves = [], []
    for k in range(min(target.shape[1], MOST_CURVES)):
        known = ~np.isnan(target[:, k])
        ones, chances = target[known, k] > 0.5, probability[known, k]
        counts = np.bincount(2 * ones + (chances > 0.5), minlength=4).reshape(2, 2)
        confusion.append(Confusion(output=k, counts=counts.tolist()))
        if 0 < ones.sum() < len(ones):
            curves.append(curve(k, chances, ones))
    return Plots(labels, confusion, curves=curves)


def curve(output: int, probability: Array, ones: Array) -> Curve:
    """The curve of N elements, each [N]: the probability of a one, and whether there is one.

    It has every point at which the ones found, or the zeros, pass another 1/STEPS of all, and the
    last one.
    """
    order = np.argsort(-probability, kind="stable")
    falling = probability[order]
    last_of_ties = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    true = np.cumsum(ones[order])[last_of_ties]
    false = last_of_ties + 1 - true
    count = int(ones.sum())
    zeros = len(ones) - count
    kept = _passing(true, count) | _passing(false, zeros)
    kept[-1] = True
    return Curve(
        output=output,
        ones=count,
        zeros=zeros,
        thresholds=_shortest(falling[last_of_ties][kept]),
        true=true[kept].tolist(),
        false=false[kept].tolist(),
    )


def _passing(found: Array, total: int) -> Array:
    """Where a rising count passes another 1/STEPS of `total`: bool, in its shape."""
    return np.diff(found * STEPS // max(total, 1), prepend=0) > 0


def sampled(target: Array, prediction: Array) -> Sample:
    """At most MOST_POINTS of the labelled elements of O outputs, each [N, O].

    One is drawn from each of as many equal parts. Those at equal distances could all be of one
    output or time step.
    """
    known = np.flatnonzero(~np.isnan(target))
    edges = np.linspace(0, len(known), min(len(known), MOST_POINTS) + 1).astype(np.int64)
    chosen = known[np.random.default_rng(0).integers(edges[:-1], edges[1:])]
    return Sample(
        true=_shortest(target.reshape(-1)[chosen]),
        predicted=_shortest(prediction.reshape(-1)[chosen]),
        outputs=(chosen % target.shape[1]).tolist(),
    )


def _shortest(values: Array) -> list[float]:
    """float32 numbers as those with the fewest digits that are the same in float32."""
    return [float(str(value)) for value in values.astype(np.float32)]
