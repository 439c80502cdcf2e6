"""Output range: targets that a head cannot give, whatever its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from job.diagnose.case import Case, Finding, remedy, skill_changes
from job.diagnose.causes.network.place import head
from job.diagnose.causes.network.probabilities import READS
from job.diagnose.inside.ranges import Range
from job.model.labels import is_complete, labelled
from job.model.losses import TaskLoss
from job.spec import Task
from job.spec.patch import Edit
from job.train.alarms.of_training import OUTSIDE

NEAR = 0.05
"""Standard deviations of the target by which it may lie outside, as it is then nearly reached."""


def findings(case: Case) -> Iterator[Finding]:
    """A finding for each task with targets out of its head's reach; closes it if no edit helps."""
    for k, task in enumerate(case.original.tasks):
        limits = case.structure.ranges[task.name]
        if task.name in case.closed or (math.isinf(limits.low) and math.isinf(limits.high)):
            continue
        if task.loss.kind in (*READS, "ordinal", "ranking"):
            continue
        finding = _outside(case, k, limits)
        if finding is not None:
            if not finding.edits:
                case.closed.add(task.name)
            yield finding


def _outside(case: Case, k: int, limits: Range) -> Finding | None:
    task = case.original.tasks[k]
    target = case.first.data.train.targets[task.name]
    loss = TaskLoss(task, partial=not is_complete(target))
    loss.fit(target)
    low, high = _reached(loss, limits)
    wanted = _wanted(loss, target)
    room = NEAR * wanted.double().std().item()
    share = ((wanted < low - room) | (wanted > high + room)).double().mean().item()
    if share < OUTSIDE:
        return None
    scaled = "" if task.transform.kind == "none" else ", as the transform makes them,"
    what = "logarithms of its counts" if task.loss.kind == "poisson_nll" else f"targets{scaled}"
    evidence = (
        f"whatever the weights, its outputs stay between {_end(low)} and {_end(high)}, but "
        f"{share:.0%} of the {what} lie outside: they reach from {wanted.min():.3g} to "
        f"{wanted.max():.3g}. No training brings an output there"
    )
    best = case.best_edits(_candidates(task, k, target, (low, high)), [task.name])
    if best is None:
        words = (
            f"in {head(case)}, remove the last activation (a tanh, sigmoid, ReLU or exp), or "
            f"multiply what it gives, so that all targets can be reached"
        )
        return Finding("output_range", task.name, evidence, words)
    edits, after = best
    effect = skill_changes(case.now, after, [task.name])
    case.accept(edits, after)
    return Finding("output_range", task.name, evidence, remedy(edits), edits, effect, (task.name,))


def _reached(loss: TaskLoss, limits: Range) -> tuple[float, float]:
    """The limits of a prediction, behind the activation that the spec asks for."""
    if loss.task.loss.reads:
        return limits.low, limits.high
    low, high = loss.activate(torch.tensor([limits.low, limits.high])).tolist()
    return low, high


def _wanted(loss: TaskLoss, target: Tensor) -> Tensor:
    """What the outputs must be for each label: of counts, the logarithm of the mean alone."""
    known = target[labelled(target)]
    if loss.task.loss.kind == "poisson_nll":
        return known.mean().clamp(min=1e-6).log().reshape(1)
    return loss.transformed(target)[labelled(target)]


def _candidates(
    task: Task, k: int, target: Tensor, limits: tuple[float, float]
) -> Iterator[tuple[Edit, ...]]:
    """The edit of the transform that brings all targets between the limits, if one does."""
    known, (low, high) = target[labelled(target)].double(), limits
    ends = (known.max().item(), high), (known.min().item(), low)
    needed = [x / limit for x, limit in ends if math.isfinite(limit) and x * limit > 0]
    by = max(needed, default=known.abs().mean().item())
    if task.loss.untransformed or not by > 0:
        return
    scaled = known / (by := _up(by))
    if scaled.min() >= low and scaled.max() <= high:
        yield (Edit(("tasks", k, "transform"), {"kind": "scale", "by": by}),)


def _up(value: float) -> float:
    """Two digits, rounded up."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / step) * step:.2g}")


def _end(value: float) -> str:
    return f"{value:.3g}".replace("inf", "∞")
