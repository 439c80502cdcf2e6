"""Targets that cannot be learned, or that are learned too easily."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from job.alarms import RANGES
from job.edit import Edit
from job.evaluate import evenly_spaced
from job.finding import Case, Finding, told
from job.spec import Task
from job.tasks import TaskLoss

SAME = 1e-6
"""Standard deviation, relative to the mean's size, below which a target is constant."""
LEAK = 0.999
"""Correlation of a feature with a target from which the one gives the other away."""
COMMON = 0.95
"""Share of the most common class, from which predicting it always looks good."""
HARDLY = 0.1
"""Skill on the validation split, up to which who knows that class may know no more."""
SAMPLES = 4096
"""Training samples that a leak is looked for in."""


def find(case: Case) -> Iterator[Finding]:
    """Findings of each task's training target; closes tasks that cannot be learned."""
    features = case.first.data.train.features
    chosen = evenly_spaced(len(features), SAMPLES)
    for k, task in enumerate(case.first.spec.tasks):
        target = case.first.data.train.targets[task.name]
        if finding := _constant(task, target) or _out_of_range(case, k, target):
            case.closed.add(task.name)
            yield finding
        elif finding := _leak(task, target[chosen], features[chosen]) or _common(
            case, task, target
        ):
            yield finding


def _constant(task: Task, target: Tensor) -> Finding | None:
    flat = target.flatten(0, -2) if task.loss.kind != "cross_entropy" else target.reshape(-1, 1)
    spread = flat.double().std(0, correction=0)
    if bool((spread > SAME * flat.double().abs().mean(0).clamp(min=SAME)).any()):
        return None
    value = ", ".join(f"{v:g}" for v in flat[0].tolist()[:3])
    evidence = f"its target is {value} in all {len(target)} training samples"
    return Finding("targets", task.name, evidence, "supply a target that varies, or drop the task")


def _out_of_range(case: Case, k: int, target: Tensor) -> Finding | None:
    task = case.first.spec.tasks[k]
    if task.activation not in RANGES:
        return None
    loss = TaskLoss(task)
    loss.fit(target)
    low, high = RANGES[task.activation]
    wanted = (target - loss.shift) / loss.scale
    share = ((wanted < low) | (wanted > high)).double().mean().item()
    if share == 0:
        return None
    evidence = (
        f"{share:.1%} of its targets lie outside of [{low:g}, {high:g}], all that "
        f"{task.activation} can reach: they are {wanted.min():.3g} to {wanted.max():.3g}"
    )
    edit = Edit(("tasks", k, "activation"), "identity")
    if (tried := case.try_(edit)) is None:
        return Finding("targets", task.name, evidence, f"set {edit}", (edit,))
    effect = told(case.now, tried, [task.name])
    case.accept([edit], tried)
    return Finding("targets", task.name, evidence, f"set {edit}", (edit,), effect)


def _leak(task: Task, target: Tensor, features: Tensor) -> Finding | None:
    """A feature that is the target: the one of largest correlation, at the same step."""
    wanted = target.double()
    if task.loss.kind == "cross_entropy":
        wanted = wanted.unsqueeze(-1)
    if task.level == "step":
        x, y = features.flatten(0, 1), wanted.flatten(0, 1)
        where = "at the same step"
    else:
        x, y = torch.cat([features.mean(1), features[:, -1]], 1), wanted
        where = "over a window, in the mean or at its last step"
    closest = _correlations(x.double(), y).abs()
    most, which = closest.amax(1).max(0)
    if most < LEAK:
        return None
    return Finding(
        "targets",
        task.name,
        f"feature {int(which) % features.shape[2]} has a correlation of {most:.4f} with it "
        f"{where}: the target leaks into the features",
        "take the feature out of the data: no edit of a spec does that",
    )


def _correlations(x: Tensor, y: Tensor) -> Tensor:
    """Of each column of x [n, F] with each of y [n, O], [F, O]; 0 where one is constant."""
    x, y = x - x.mean(0), y - y.mean(0)
    size = x.norm(dim=0)[:, None] * y.norm(dim=0)
    return torch.where(size > 0, (x.T @ y) / size, 0.0)


def _common(case: Case, task: Task, target: Tensor) -> Finding | None:
    """A constant prediction that is nearly always right, where the task has learned no more."""
    if task.loss.kind == "cross_entropy":
        share = torch.bincount(target.flatten()).max().item() / target.numel()
    elif task.loss.kind == "binary_cross_entropy":
        ones = target.double().mean().item()
        share = max(ones, 1 - ones)
    else:
        return None
    if share < COMMON or case.first.skill(task.name, "validation") > HARDLY:
        return None
    gate = Edit(
        ("gates", -1), {"task": task.name, "skill": 0.0, "by_epoch": case.spec.train.epochs}
    )
    case.accept([gate], case.now)  # which a probe does not read
    return Finding(
        "targets",
        task.name,
        f"one answer is right for {share:.1%} of its elements: who always gives it has a loss of "
        f"{case.first.baselines[task.name].constant['train']:.3g}; on the validation split the "
        f"task ends at {case.first.end(task.name, 'validation'):.3g}",
        f"weigh or resample the data; set {gate}, so that a run that knows no more fails",
        (gate,),
    )
