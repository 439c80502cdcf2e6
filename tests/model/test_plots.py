"""Plots: confusion, curves and samples are those of scikit-learn on random data, within bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from job.events import Curve
from job.model.losses import TaskLoss
from job.model.metrics import summarize
from job.model.plots import MOST_CLASSES, MOST_CURVES, MOST_POINTS, Plots, plot, with_curves
from job.spec import Task
from tests.support.losses import task_of
from tests.support.nets import task

CLASSES = task("classes", "step", "cross_entropy", 5)
MANY = task("many", "window", "cross_entropy", 60)
BINARY = task("binary", "window", "binary_cross_entropy", 1)
LABELS = task("labels", "step", "binary_cross_entropy", 10)
NUMBERS = task("numbers", "step", "huber", 2)
SEEDS = range(3)


def drawn(task: Task, seed: int, n: int = 700, steps: int = 5) -> tuple[Tensor, Tensor]:
    """A head's outputs, some of them equal, and a target that has to do with them."""
    draw = torch.Generator().manual_seed(seed)
    shape = (n, task.outputs) if task.level == "window" else (n, steps, task.outputs)
    outputs = (torch.randn(shape, generator=draw) * 2).mul(16).round() / 16
    noisy = outputs + torch.randn(shape, generator=draw) * 2
    match task.loss.kind:
        case "cross_entropy":
            return outputs, noisy.argmax(-1)
        case "binary_cross_entropy":
            return outputs, (noisy > 3).float()
        case _:
            return outputs, noisy


def plotted(task: Task, outputs: Tensor, target: Tensor) -> Plots:
    """As an evaluation does it."""
    curved = with_curves(task, target)
    return plot(task, summarize(task, TaskLoss(task).predict(outputs), curved), target, curved)


def assert_on_curves(curve: Curve, ones: Any, probability: Any) -> None:
    """Every point is one of scikit-learn's two curves; between them the area is nearly whole."""
    true, false = (np.array(each) for each in (curve.true, curve.false))
    assert (curve.ones, curve.zeros) == (ones.sum(), (~ones).sum())
    assert (true[-1], false[-1]) == (curve.ones, curve.zeros)
    thresholds = np.array(curve.thresholds, dtype=np.float32)
    assert 2 <= len(thresholds) <= 100
    assert (np.diff(thresholds) < 0).all()

    fpr, tpr, at = sk.roc_curve(ones, probability, drop_intermediate=False)
    places = len(at) - 1 - np.searchsorted(at[::-1], thresholds)
    np.testing.assert_array_equal(at[places].astype(np.float32), thresholds)
    np.testing.assert_allclose(tpr[places], true / curve.ones, rtol=1e-12)
    np.testing.assert_allclose(fpr[places], false / curve.zeros, rtol=1e-12)
    area = np.trapezoid([0, *true / curve.ones], [0, *false / curve.zeros])
    assert area == pytest.approx(sk.roc_auc_score(ones, probability), abs=0.005)

    precision, recall, at = sk.precision_recall_curve(ones, probability)
    places = np.searchsorted(at, thresholds)
    np.testing.assert_array_equal(at[places].astype(np.float32), thresholds)
    np.testing.assert_allclose(precision[places], true / (true + false), rtol=1e-12)
    np.testing.assert_allclose(recall[places], true / curve.ones, rtol=1e-12)
    # No step between points is wider than 1/48, but for ties, of which there are few here.
    assert np.diff(recall[places], prepend=0).max() < 0.06


@pytest.mark.parametrize("seed", SEEDS)
def test_classes(seed: int) -> None:
    """The confusion matrix is scikit-learn's, and each class has its curve against the others."""
    outputs, target = drawn(CLASSES, seed)
    target[::7, 2] = -1
    known = target.flatten() >= 0
    found = plotted(CLASSES, outputs, target)
    y = target.flatten()[known].numpy()
    rows = outputs.softmax(-1).flatten(0, 1)[known].numpy()
    assert found.labels == len(y)
    expected = sk.confusion_matrix(y, rows.argmax(1), labels=range(5))
    np.testing.assert_array_equal(found.confusion[0].counts, expected)
    assert [each.output for each in found.curves] == list(range(5))
    for each in found.curves:
        assert_on_curves(each, y == each.output, rows[:, each.output])


def test_many_classes() -> None:
    """Of 60 classes the most confused pairs are there, and the curves of the most frequent."""
    outputs, target = drawn(MANY, 0, n=4000)
    target[target > 40] = 7
    found = plotted(MANY, outputs, target)
    assert found.confusion == []
    table = sk.confusion_matrix(target, outputs.argmax(-1), labels=range(60))
    np.fill_diagonal(table, 0)
    pairs = [(each.true, each.predicted) for each in found.confused]
    assert len(set(pairs)) == MOST_CLASSES
    assert [each.count for each in found.confused] == sorted(table.ravel())[::-1][:MOST_CLASSES]
    assert all(table[pair] == each.count for pair, each in zip(pairs, found.confused, strict=True))
    counts = torch.bincount(target)
    chosen = [each.output for each in found.curves]
    assert len(chosen) == MOST_CURVES
    assert counts[chosen].min() >= counts[[c for c in range(41) if c not in chosen]].max()
    for each in found.curves:
        probability = outputs.softmax(-1)[:, each.output].numpy()
        assert_on_curves(each, target.numpy() == each.output, probability)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("of", [BINARY, LABELS], ids=lambda task: task.name)
def test_zeros_and_ones(of: Task, seed: int) -> None:
    """Each of the first outputs has its own table and curve, of the elements with a label."""
    outputs, target = drawn(of, seed)
    target[::5, ..., 0] = torch.nan
    found = plotted(of, outputs, target)
    assert found.labels == int((target == target).sum())
    assert [each.output for each in found.curves] == list(range(min(of.outputs, MOST_CURVES)))
    for table, each in zip(found.confusion, found.curves, strict=True):
        both = (target, outputs.sigmoid())
        y, chance = (x[..., each.output].flatten().numpy() for x in both)
        y, chance = y[y == y], chance[y == y]
        assert table.output == each.output
        np.testing.assert_array_equal(table.counts, sk.confusion_matrix(y, chance > 0.5))
        assert_on_curves(each, y > 0.5, chance)


def test_numbers() -> None:
    """Pairs of target and prediction come from all over the split, steps and outputs alike."""
    outputs, target = drawn(NUMBERS, 0)
    target[:, 1, 0] = torch.nan
    found = plotted(NUMBERS, outputs, target)
    sample = found.sample
    assert sample is not None
    assert len(sample.true) == len(sample.predicted) == MOST_POINTS
    values = zip(target.flatten().tolist(), outputs.flatten().tolist(), strict=True)
    known = dict(
        zip(
            ((*pair, i % 2) for i, pair in enumerate(values)),
            np.ndindex(*target.shape),
            strict=True,
        )
    )
    true, predicted = (
        np.array(each, np.float32).tolist() for each in (sample.true, sample.predicted)
    )
    rows = zip(true, predicted, sample.outputs, strict=True)
    places = np.array([known[row] for row in rows])
    assert (np.diff(places[:, 0]) >= 0).all()
    assert np.diff(places[:, 0]).max() <= 4  # of 700 samples
    assert np.bincount(places[:, 1]).min() > 30  # of 500 points, over 5 steps
    assert np.bincount(sample.outputs).min() > 150


def test_few_numbers_are_all_there() -> None:
    """Of less than 500 elements each is there once."""
    outputs, target = drawn(NUMBERS, 1, n=20)
    sample = plotted(NUMBERS, outputs, target).sample
    assert sample is not None
    np.testing.assert_array_equal(np.array(sample.true, np.float32), target.flatten().numpy())
    np.testing.assert_array_equal(np.array(sample.predicted, np.float32), outputs.flatten().numpy())


@pytest.mark.parametrize("of", [CLASSES, BINARY, NUMBERS], ids=lambda task: task.name)
def test_nothing_to_plot(of: Task) -> None:
    """A prediction that is not finite leaves no plot, and one kind of label no curve."""
    outputs, target = drawn(of, 0)
    broken = outputs.clone()
    broken[3] = torch.nan
    assert plotted(of, broken, target) == Plots(target.numel())
    if of is not NUMBERS:
        assert plotted(of, outputs, torch.ones_like(target)).curves == []


def test_what_has_no_number_of_its_own_kind() -> None:
    """Of quantiles the middle level is drawn, of a Gaussian the mean, of ordered classes who is
    taken for whom, and of lists nothing."""
    draw = torch.Generator().manual_seed(0)
    target = torch.randn(40, 3, generator=draw)
    levels = torch.randn(40, 3, 3, generator=draw)
    for name, drawn_ones in (("quantile", levels[..., 1]), ("gaussian_nll", levels[..., 0])):
        outputs = levels if name == "quantile" else levels[..., :2]
        sample = plotted(task_of(name), outputs.flatten(1), target).sample
        assert sample is not None
        np.testing.assert_array_equal(np.array(sample.true, "f4"), target.flatten().numpy())
        np.testing.assert_array_equal(
            np.array(sample.predicted, "f4"), drawn_ones.flatten().numpy()
        )
    assert plotted(task_of("ranking"), target, target) == Plots(120)
    grades = torch.randint(3, (40,), generator=draw)
    found = plotted(task_of("ordinal"), levels[:, 0, :2], grades)
    above = levels[:, 0, :2].sigmoid().cumprod(-1)
    predicted = (above > 0.5).sum(-1)  # the median class
    np.testing.assert_array_equal(found.confusion[0].counts, sk.confusion_matrix(grades, predicted))
