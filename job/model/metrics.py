"""The metrics of a task's predictions beside its targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from functools import partial
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from job.model.losses.element_losses import PAIRS
from job.model.own.functions import LoadedMetric
from job.spec import Loss, Quantile, Task

BINS = 15
"""Of the calibration error."""
NINETY = 1.6448536269514722
"""Standard deviations from the mean within which 90 % of a normal distribution lies."""
Values = dict[str, float | None]
"""By metric; None where the elements hold no value of it (job.spec.tasks.Metric.needs)."""


def summarize(task: Task, predictions: Tensor, curved: Sequence[int] = ()) -> Tensor:
    """What the metrics need of predictions (see TaskLoss.predict): float32 [n, …, P].

    P is 2 for cross_entropy, the most probable class and its probability, and after them come the
    probabilities of the classes `curved`, which plots need; 1 for ordinal, the median class (the
    rank of Shi, Cao and Raschka 2021, eq. 3); else all of the predictions.
    """
    if task.loss.kind == "ordinal":
        classes = predictions.shape[-1]
        # Not cumsum, which has no deterministic kernel on GPUs.
        above = predictions @ predictions.new_ones(classes, classes).tril(-1)
        return (above > 0.5).sum(-1, keepdim=True).float()
    if task.loss.kind != "cross_entropy":
        return predictions
    probability, best = predictions.max(-1)
    summary = torch.stack([best.float(), probability], -1)
    return torch.cat([summary, predictions[..., list(curved)]], -1) if curved else summary


def summary_width(task: Task) -> int:
    """P of `summarize`."""
    return {"cross_entropy": 2, "ordinal": 1}.get(task.loss.kind, task.head_width)


def measure(task: Task, summary: Tensor, target: Tensor) -> Values:
    """A task's metrics: of `summarize` for n samples, beside their target [n, …].

    Elements without a label are left out. Those of 0/1 outputs are means over the outputs that have
    a value. All are None if a prediction is not finite.
    """
    names = task.built_in_metrics
    if not task.measured or not summary.isfinite().all():
        return dict.fromkeys(task.measured)
    rows, of = summary.flatten(0, -2), set(names)
    match task.loss.kind:
        case "cross_entropy":
            parts = [_of_labelled(of_classes, of, target.flatten(), rows[:, 0].long(), rows[:, 1])]
        case "binary_cross_entropy":
            columns = zip(target.flatten(0, -2).T, rows.T, strict=True)
            parts = [_of_labelled(of_binary, of, y, p) for y, p in columns]
        case "ordinal":
            parts = [_of_labelled(of_ordered, of, target.flatten(), rows[:, 0].long())]
        case "ranking":
            parts = [of_lists(target.flatten(0, -2), rows)]
        case "quantile" | "gaussian_nll":
            each = rows.unflatten(-1, (task.outputs, -1)).flatten(0, 1)
            of_each = partial(of_intervals, task.loss)
            parts = [_of_labelled(of_each, of, target.flatten(), each)]
        case _:
            parts = [_of_labelled(of_numbers, of, target.flatten(), rows.flatten())]
    found = {name: _mean([part[name] for part in parts]) for name in names}
    return found | _of_ones_own(task, target, rows)


def _of_labelled(
    compute: Callable[..., Values], names: Set[str], target: Tensor, *values: Tensor
) -> Values:
    """Metrics of the elements [N] that have a label: not NaN, nor -1 among classes."""
    known = target == target if target.is_floating_point() else target >= 0
    if not known.all():
        target, values = target[known], tuple(each[known] for each in values)
    return compute(names, target, *values) if len(target) else dict.fromkeys(names)


def _of_ones_own(task: Task, target: Tensor, rows: Tensor) -> Values:
    """Metrics of one's own, of the predictions whose labels are all there.

    rows: [N, P], as `summarize` gives them.
    """
    if not task.own_metrics:
        return {}
    if task.loss.of_classes:
        target, predicted = target.flatten(), rows[:, 0].long()
        known = target >= 0
    else:
        target, predicted = target.flatten(0, -2), rows
        known = target.isfinite().all(-1)
    found: Values = {}
    for metric in task.own_metrics:
        assert isinstance(metric, LoadedMetric)
        found[metric.name] = metric.of(predicted[known], target[known]) if known.any() else None
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


# --- classes ------------------------------------------------------------------------------------


def of_classes(names: Set[str], target: Tensor, best: Tensor, probability: Tensor) -> Values:
    """Of N elements, each [N]: the class, the most probable one, and its probability."""
    right = best == target
    found: Values = {}
    if "calibration_error" in names:
        found["calibration_error"] = calibration_error(probability, right)
    if any(name.startswith("macro_") for name in names):
        found |= macro(best, target)
    return found | {"accuracy": right.double().mean().item()}


def of_ordered(names: Set[str], target: Tensor, best: Tensor) -> Values:
    """Of N elements, each [N]: the class, and the predicted one."""
    found: Values = macro(best, target) if any(name.startswith("macro_") for name in names) else {}
    return found | {
        "accuracy": (best == target).double().mean().item(),
        "mae": (best - target).abs().double().mean().item(),
    }


def macro(best: Tensor, target: Tensor) -> Values:
    """F1, precision and recall as means over the classes in `best` or `target`, each [N].

    From three counts a class: a table of all pairs of classes would be large.
    """
    count = 1 + int(torch.maximum(best.max(), target.max()))
    predicted, actual, right = (
        torch.bincount(classes, minlength=count).double()
        for classes in (best, target, best[best == target])
    )
    used = predicted + actual > 0
    shares = {
        "macro_f1": 2 * right / (predicted + actual),
        "macro_precision": right / predicted,
        "macro_recall": right / actual,
    }
    return {name: share[used].nan_to_num(0.0).mean().item() for name, share in shares.items()}


# --- 0/1 outputs --------------------------------------------------------------------------------


def of_binary(names: Set[str], target: Tensor, probability: Tensor) -> Values:
    """Of N elements, each [N]: 0 or 1, and the probability of 1, float32."""
    ones, probability = target > 0.5, probability.contiguous()
    predicted = probability > 0.5
    found: Values = {"accuracy": (predicted == ones).double().mean().item()}
    if "calibration_error" in names:
        found["calibration_error"] = calibration_error(probability, ones)
    if names & {"auroc", "average_precision"}:
        found |= ranking(probability, ones)
    if names & {"f1", "precision", "recall"}:
        found |= of_ones(predicted, ones)
    return found


def of_ones(predicted: Tensor, ones: Tensor) -> Values:
    """F1, precision and recall; of N elements, each [N] bool: whether predicted 1, whether 1."""
    right, guessed, actual = (int(x.sum()) for x in (predicted & ones, predicted, ones))
    return {
        "f1": 2 * right / (guessed + actual) if guessed + actual else None,
        "precision": right / guessed if guessed else None,
        "recall": right / actual if actual else None,
    }


def ranking(probability: Tensor, ones: Tensor) -> Values:
    """Area under the ROC curve and average precision, exact, from one sort.

    Of N elements: the probability of a one [N], float32, and whether there is one [N], bool.
    """
    # The bits of a float from 0 to 1 are a whole number below 2³⁰, in the same order. So one
    # 32-bit number holds a probability and, as its last bit, the target.
    keys = (probability.view(torch.int32) << 1) | ones.int()
    keys = keys.sort().values.flip(0)  # torch sorts downwards several times slower
    last_of_ties = F.pad(
        (keys[1:] >> 1 != keys[:-1] >> 1).nonzero()[:, 0], (0, 1), value=len(keys) - 1
    )
    positives = int(ones.sum())
    negatives = len(ones) - positives
    true = (keys & 1).cumsum(0)[last_of_ties].double()
    false = last_of_ties + 1 - true
    gained = true.diff(prepend=true.new_zeros(1))
    found: Values = {"auroc": None, "average_precision": None}
    if positives:
        precision = true / (true + false)
        found["average_precision"] = ((gained * precision).sum() / positives).item()
    if positives and negatives:
        area = (false.diff(prepend=false.new_zeros(1)) * (true - gained / 2)).sum()
        found["auroc"] = (area / positives / negatives).item()
    return found


def calibration_error(probability: Tensor, happened: Tensor) -> float:
    """Expected calibration error of probabilities [N] of what happened [N], or did not.

    Guo et al. 2017, On calibration of modern neural networks, eq. 3, in 15 bins of equal width. A
    bin's count cancels: its weight times its gap is |Σ probability − Σ happened| / N.
    """
    gaps = probability.double() - happened.double()
    bins = (probability * BINS).long().clamp(max=BINS - 1)
    by_bin = gaps.new_zeros(BINS).scatter_add_(0, bins, gaps)
    return by_bin.abs().sum().item() / len(gaps)


# --- numbers ------------------------------------------------------------------------------------


def of_numbers(names: Set[str], target: Tensor, prediction: Tensor) -> Values:
    """Of N elements, each [N]: the number, and the predicted one."""
    target, error = target.double(), prediction.double() - target.double()
    spread, squared = target.var(correction=0).item(), error.square().mean().item()
    r2 = 1 - squared / spread if target.amin() < target.amax() else None
    return {"mae": error.abs().mean().item(), "rmse": math.sqrt(squared), "r2": r2}


def middle(loss: Loss) -> int:
    """Which of the numbers that a head gives for an element is the prediction of it as a point.

    The level nearest to 1/2, the lower one of two; else the first, such as the mean.
    """
    if not isinstance(loss, Quantile):
        return 0
    return min(range(len(loss.levels)), key=lambda i: abs(loss.levels[i] - 0.5))


def of_intervals(loss: Loss, names: Set[str], target: Tensor, prediction: Tensor) -> Values:
    """Of N elements: the number [N], and its quantiles [N, levels], or mean and deviation [N, 2].

    The point that is measured is that of `middle`.
    """
    point = prediction[:, middle(loss)]
    if isinstance(loss, Quantile):
        low, high = prediction[:, 0], prediction[:, -1]
    else:
        low, high = point - NINETY * prediction[:, 1], point + NINETY * prediction[:, 1]
    found = of_numbers(names, target, point)
    found["coverage"] = ((low <= target) & (target <= high)).double().mean().item()
    found["crossing"] = (prediction.diff(dim=1) < 0).any(1).double().mean().item()
    return found


# --- lists --------------------------------------------------------------------------------------


def of_lists(relevance: Tensor, scores: Tensor) -> Values:
    """Of N lists [N, O]: the relevance of each item, NaN where there is none, and its score."""
    shares = []
    lists = max(1, PAIRS // scores.shape[-1] ** 2)
    for y, s in zip(relevance.split(lists), scores.split(lists), strict=True):
        above = y.unsqueeze(-1) > y.unsqueeze(-2)
        order = (s.unsqueeze(-1) - s.unsqueeze(-2)).sign()
        right = torch.where(above, (order + 1) / 2, 0.0).sum((-2, -1)).double()
        pairs = above.sum((-2, -1))
        shares.append((right / pairs)[pairs > 0])
    found = torch.cat(shares)
    return {"pair_accuracy": found.mean().item() if len(found) else None}
