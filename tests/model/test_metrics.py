"""Metrics: each is scikit-learn's on random data, ties too, or has no value."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, get_args

import numpy as np
import pytest
import torch
from sklearn import calibration
from sklearn import metrics as sk
from torch import Tensor

from job.model.losses import TaskLoss
from job.model.metrics import BINS, measure, summarize
from job.spec import Task
from job.spec.losses import SECTIONS
from job.spec.tasks import (
    METRICS,
    OF_BINARY,
    OF_CLASSES,
    OF_NUMBERS,
    OF_ORDERED,
    MetricName,
    default_metrics,
    metrics_of,
)
from tests.support.command import ROOT, environment
from tests.support.nets import task

CLASSES = task("classes", "step", "cross_entropy", 5, metrics=OF_CLASSES)
BINARY = task("binary", "step", "binary_cross_entropy", 1, metrics=OF_BINARY)
LABELS = task("labels", "step", "binary_cross_entropy", 3, metrics=OF_BINARY)
NUMBERS = task("numbers", "step", "huber", 2, metrics=OF_NUMBERS)
SEEDS = range(3)


def drawn(task: Task, seed: int, n: int = 200, steps: int = 6) -> tuple[Tensor, Tensor]:
    """A head's outputs and a target that has to do with them."""
    draw = torch.Generator().manual_seed(seed)
    shape = (n, steps, task.outputs)
    outputs = torch.randn(shape, generator=draw) * 2
    noise = torch.randn(shape, generator=draw) * 2
    match task.loss.kind:
        case "cross_entropy":
            return outputs, (outputs + noise).argmax(-1)
        case "binary_cross_entropy":
            return outputs, (outputs + noise > 1).float()
        case _:
            return outputs, outputs + noise


def measured(task: Task, outputs: Tensor, target: Tensor) -> dict[str, float | None]:
    """As an evaluation does it."""
    return measure(task, summarize(task, TaskLoss(task).predict(outputs)), target)


def expected_binary(probability: Any, ones: Any) -> dict[str, float]:
    """By scikit-learn, of one output."""
    chosen = probability > 0.5
    return {
        "accuracy": sk.accuracy_score(ones, chosen),
        "auroc": sk.roc_auc_score(ones, probability),
        "average_precision": sk.average_precision_score(ones, probability),
        "calibration_error": expected_error(probability, ones),
        "f1": sk.f1_score(ones, chosen),
        "precision": sk.precision_score(ones, chosen),
        "recall": sk.recall_score(ones, chosen),
    }


def expected_error(probability: Any, happened: Any) -> float:
    """Of scikit-learn's calibration curve, weighted by the elements in each bin."""
    share, mean = calibration.calibration_curve(happened, probability, n_bins=BINS)
    count, _ = np.histogram(probability, bins=BINS, range=(0, 1))
    weights = count[count > 0] / count.sum()
    return float((weights * np.abs(share - mean)).sum())


@pytest.mark.parametrize("seed", SEEDS)
def test_of_classes(seed: int) -> None:
    """Accuracy, the means over the classes, and the error of the most probable class."""
    outputs, target = drawn(CLASSES, seed)
    probability = outputs.softmax(-1).flatten(0, 1)
    best, y = probability.argmax(-1), target.flatten()
    averaged = {"average": "macro", "zero_division": 0}
    assert measured(CLASSES, outputs, target) == pytest.approx(
        {
            "accuracy": sk.accuracy_score(y, best),
            "macro_f1": sk.f1_score(y, best, **averaged),
            "calibration_error": expected_error(probability.amax(-1).numpy(), best == y),
            "macro_precision": sk.precision_score(y, best, **averaged),
            "macro_recall": sk.recall_score(y, best, **averaged),
        },
        abs=1e-6,
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("digits", [7, 1], ids=["distinct", "ties"])
def test_of_binary(seed: int, digits: int) -> None:
    """All seven of one output, where many predictions are the same too."""
    outputs, target = drawn(BINARY, seed)
    outputs = (outputs + 0.03).round(decimals=digits)
    probability, ones = outputs.sigmoid().flatten().numpy(), target.flatten().numpy()
    expected = expected_binary(probability, ones)
    assert measured(BINARY, outputs, target) == pytest.approx(expected, abs=1e-6)


def test_of_several_outputs() -> None:
    """Each is the mean over the outputs."""
    outputs, target = drawn(LABELS, 0)
    probability, ones = outputs.sigmoid().flatten(0, 1).numpy(), target.flatten(0, 1).numpy()
    each = [expected_binary(probability[:, k], ones[:, k]) for k in range(3)]
    expected = {name: np.mean([one[name] for one in each]) for name in OF_BINARY}
    assert measured(LABELS, outputs, target) == pytest.approx(expected, abs=1e-6)
    assert expected["auroc"] == pytest.approx(sk.roc_auc_score(ones, probability))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("centre", "deviation"), [(0, 1), (0, 1e-6), (3e4, 1.0), (0, 1e6)])
def test_of_numbers(seed: int, centre: float, deviation: float) -> None:
    """In original units over all elements, whatever the target's offset and size."""
    outputs, target = (x * deviation + centre for x in drawn(NUMBERS, seed))
    p, y = outputs.flatten().double(), target.flatten().double()
    assert measured(NUMBERS, outputs, target) == pytest.approx(
        {
            "mae": sk.mean_absolute_error(y, p),
            "rmse": sk.root_mean_squared_error(y, p),
            "r2": sk.r2_score(y, p),
        },
        rel=1e-9,
    )


# --- intervals, ordered classes and lists -------------------------------------------------------


def test_of_quantiles() -> None:
    """The point is the level nearest to 1/2; a crossing is counted once for each prediction of an
    output; coverage is from the lowest to the highest level. All in original units."""
    loss = {"kind": "quantile", "levels": (0.05, 0.4, 0.9)}
    made = task("y", "step", "quantile", 2, loss=loss, transform={"kind": "scale", "by": 4.0})
    draw = torch.Generator().manual_seed(0)
    outputs, target = torch.randn(50, 6, 6, generator=draw), torch.randn(50, 6, 2, generator=draw)
    found = measured(made, outputs, target)
    low, point, high = (4 * outputs.view(-1, 3)).T.double().numpy()
    y = target.flatten().double().numpy()
    crossed = (low > point) | (point > high)
    assert 0.5 < crossed.mean() < 1
    assert found == pytest.approx(
        {
            "mae": sk.mean_absolute_error(y, point),
            "rmse": sk.root_mean_squared_error(y, point),
            "r2": sk.r2_score(y, point),
            "crossing": crossed.mean(),
            "coverage": ((low <= y) & (y <= high)).mean(),
        },
        rel=1e-6,
    )
    rising = outputs.view(-1, 3).sort(-1).values.view(50, 6, 6)
    assert measured(made, rising, target)["crossing"] == 0


def test_of_normals() -> None:
    """Nine of ten targets drawn from the predicted distributions are within their intervals."""
    made = task("y", "window", "gaussian_nll", 2, transform={"kind": "scale", "by": 4.0})
    draw = torch.Generator().manual_seed(0)
    outputs = torch.randn(4000, 4, generator=draw)
    mean, deviation = TaskLoss(made).predict(outputs).view(4000, 2, 2).unbind(-1)
    target = torch.normal(mean, deviation, generator=draw)
    found = measured(made, outputs, target)
    assert found["coverage"] == pytest.approx(0.9, abs=0.01)
    expected = sk.root_mean_squared_error(target.flatten(), mean.flatten())
    assert found["rmse"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_of_ordered_classes(seed: int) -> None:
    """The predicted class is the median: the number of steps more likely taken than not."""
    made = task("y", "step", "ordinal", 5, metrics=OF_ORDERED)
    draw = torch.Generator().manual_seed(seed)
    outputs = 1 + 2 * torch.randn(50, 6, 4, generator=draw)
    target = torch.randint(5, (50, 6), generator=draw)
    best = (outputs.sigmoid().cumprod(-1) > 0.5).sum(-1).flatten()
    y, averaged = target.flatten(), {"average": "macro", "zero_division": 0}
    assert len(best.unique()) == 5
    assert measured(made, outputs, target) == pytest.approx(
        {
            "accuracy": sk.accuracy_score(y, best),
            "mae": sk.mean_absolute_error(y, best),
            "macro_f1": sk.f1_score(y, best, **averaged),
            "macro_precision": sk.precision_score(y, best, **averaged),
            "macro_recall": sk.recall_score(y, best, **averaged),
        },
        abs=1e-6,
    )


def test_of_lists() -> None:
    """Of two relevances it is the mean area under the ROC curves of the lists; lists of one
    relevance have none, and items without one are left out."""
    made = task("y", "window", "ranking", 8)
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 8, generator=draw).round(decimals=1)
    relevance = torch.randint(2, (40, 8), generator=draw).float()
    relevance[0] = 1
    relevance[1:20, 3] = torch.nan
    each = []
    for s, y in zip(scores[1:], relevance[1:], strict=True):
        known = ~y.isnan()
        each.append(sk.roc_auc_score(y[known], s[known]))
    assert measured(made, scores, relevance)["pair_accuracy"] == pytest.approx(np.mean(each))
    assert measured(made, scores, torch.ones(40, 8)) == {"pair_accuracy": None}


def test_numbers_are_in_original_units() -> None:
    """A target that is transformed for the loss is measured as it was."""
    scaled = task("scaled", "window", "mse", transform={"kind": "scale", "by": 20.0})
    found = measured(scaled, torch.tensor([[1.0], [2.0]]), torch.tensor([[21.0], [37.0]]))
    assert found["mae"] == pytest.approx(2.0)
    assert found["rmse"] == pytest.approx((5.0) ** 0.5)


# --- where there is no value --------------------------------------------------------------------


@pytest.mark.parametrize("only", [0.0, 1.0])
def test_one_class_has_no_roc_curve(only: float) -> None:
    """And without ones there is neither recall nor average precision; the others stay."""
    outputs, target = drawn(BINARY, 0)
    found = measured(BINARY, outputs, torch.full_like(target, only))
    without = {"auroc"} | ({"average_precision", "recall"} if only == 0 else set())
    assert {name for name, value in found.items() if value is None} == without
    if only == 1:
        assert found["average_precision"] == 1


def test_nothing_predicted_has_no_precision() -> None:
    """Nor an F1, if the target holds no ones either."""
    outputs, target = drawn(BINARY, 0)
    found = measured(BINARY, outputs.abs().neg(), target)
    assert (found["precision"], found["recall"], found["f1"]) == (None, 0.0, 0.0)
    assert measured(BINARY, outputs.abs().neg(), torch.zeros_like(target))["f1"] is None


def test_an_output_without_a_value_is_left_out_of_the_mean() -> None:
    """The AUROC of three outputs of which one has no ones is the mean of two."""
    outputs, target = drawn(LABELS, 0)
    target[..., 1] = 0
    probability, ones = outputs.sigmoid().flatten(0, 1).numpy(), target.flatten(0, 1).numpy()
    expected = np.mean([sk.roc_auc_score(ones[:, k], probability[:, k]) for k in (0, 2)])
    assert measured(LABELS, outputs, target)["auroc"] == pytest.approx(expected, abs=1e-9)


def test_a_constant_target_has_no_r2() -> None:
    """Its errors have a size still."""
    outputs, target = drawn(NUMBERS, 0)
    found = measured(NUMBERS, outputs, torch.full_like(target, 7.25))
    assert found["r2"] is None
    assert found["mae"] == pytest.approx((outputs - 7.25).abs().double().mean().item())


def test_predictions_that_say_nothing() -> None:
    """All alike: an AUROC of one half, an R² of 0 at the mean, average precision the share."""
    _, target = drawn(BINARY, 1)
    found = measured(BINARY, torch.zeros_like(target), target)
    assert found["auroc"] == 0.5
    assert found["average_precision"] == pytest.approx(target.mean().item(), rel=1e-6)
    _, numbers = drawn(NUMBERS, 1)
    mean = torch.full_like(numbers, numbers.double().mean().item())
    assert measured(NUMBERS, mean, numbers)["r2"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("each", [CLASSES, BINARY, NUMBERS], ids=lambda each: each.name)
def test_predictions_that_are_not_finite_have_no_metrics(each: Task) -> None:
    """Not even an accuracy: one such prediction is enough."""
    outputs, target = drawn(each, 0)
    outputs[3, 2, 0] = torch.nan
    assert measured(each, outputs, target) == dict.fromkeys(each.measured)


@pytest.mark.parametrize("each", [CLASSES, BINARY, LABELS, NUMBERS], ids=lambda each: each.name)
def test_elements_without_a_label_are_left_out(each: Task) -> None:
    """As if they were not there; where none has a label, nothing has a value."""
    outputs, target = drawn(each, 0)
    kept = measured(each, outputs[:150], target[:150])
    missing = -1 if each.loss.kind == "cross_entropy" else torch.nan
    target[150:] = missing
    assert measured(each, outputs, target) == kept
    assert measured(each, outputs, torch.full_like(target, missing)) == dict.fromkeys(each.measured)


def test_each_output_has_its_own_labels() -> None:
    """One of a sample's labels may be missing; it takes no other one along."""
    outputs, target = drawn(LABELS, 0)
    target[100:, :, 1] = torch.nan
    alone = LABELS.model_copy(update={"outputs": 1})
    parts = [
        measured(alone, outputs[:end, :, k : k + 1], target[:end, :, k : k + 1])["auroc"] or 0.0
        for k, end in enumerate((200, 100, 200))
    ]
    assert measured(LABELS, outputs, target)["auroc"] == pytest.approx(np.mean(parts))


def test_certain_predictions() -> None:
    """Probabilities of exactly 0 and 1 are ranked and calibrated too."""
    outputs = torch.tensor([[200.0], [-200.0], [200.0], [-200.0]])
    target = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    one = task("one", "window", "binary_cross_entropy", metrics=OF_BINARY)
    found = measured(one, outputs, target)
    assert found["auroc"] == pytest.approx(5 / 6)
    assert found["average_precision"] == pytest.approx(0.5)
    assert found["calibration_error"] == pytest.approx(0.25)


# --- the set of metrics -------------------------------------------------------------------------


def test_the_names_are_those_that_a_spec_may_have() -> None:
    """One set in the spec's type, in the table, and over all kinds of loss."""
    assert set(get_args(MetricName)) == METRICS.keys()
    assert METRICS.keys() == {name for kind in SECTIONS for name in metrics_of(kind)}
    for kind in SECTIONS:
        assert set(default_metrics(kind)) <= set(metrics_of(kind))


@pytest.mark.parametrize("each", [CLASSES, LABELS, NUMBERS], ids=lambda each: each.name)
def test_only_what_is_asked_for_is_measured(each: Task) -> None:
    """In the order of the spec; alone, a metric has the value that it has beside the others."""
    outputs, target = drawn(each, 2)
    beside = measured(each, outputs, target)
    for name in each.measured:
        alone = each.model_copy(update={"metrics": (name,)})
        assert measured(alone, outputs, target) == {name: beside[name]}
    assert list(beside) == list(each.measured)
    assert measured(each.model_copy(update={"metrics": ()}), outputs, target) == {}


@pytest.mark.slow
def test_nothing_is_written_to_stderr() -> None:
    """Where a metric has no value, torchmetrics has nothing to say about it on the screen."""
    code = """
import torch
from job.model.metrics import measure, summarize
from tests.support.nets import task
from job.spec.tasks import metrics_of
for kind in ("cross_entropy", "binary_cross_entropy", "mse"):
    one = task("one", "window", kind, 2, metrics=metrics_of(kind))
    target = torch.zeros(4, dtype=torch.int64) if kind == "cross_entropy" else torch.zeros(4, 2)
    print(measure(one, summarize(one, torch.full((4, 2), 0.25)), target))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert ended.stderr == ""
    assert json.loads(ended.stdout.splitlines()[0].replace("'", '"'))["accuracy"] == 1
