"""Targets that cannot be learned, or that are learned too easily."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from job.alarms import OUTSIDE, RANGES, outside
from job.edit import Edit
from job.evaluate import evenly_spaced
from job.finding import Case, Finding, told
from job.spec import SkillGate, Task
from job.tasks import TaskLoss

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
    train = case.first.data.train
    chosen = evenly_spaced(len(train.features), SAMPLES)
    for k, task in enumerate(case.whole.tasks):
        target = train.targets[task.name]
        finding = _constant(task, target) or _out_of_range(case, k, target)
        if finding is not None:
            case.closed.add(task.name)
        else:
            finding = _leak(task, target[chosen], train.features[chosen])
            finding = finding or _common(case, task, target)
        if finding is not None:
            yield finding


def _constant(task: Task, target: Tensor) -> Finding | None:
    """A target of which an output is always the same."""
    flat = target.flatten(0, -2) if task.loss.kind != "cross_entropy" else target.reshape(-1, 1)
    same = flat.amax(0) == flat.amin(0)
    if not bool(same.any()):
        return None
    which = "" if bool(same.all()) else f" at output {int(same.int().argmax())}"
    value = flat[0, int(same.int().argmax())].item()
    evidence = f"its target{which} is {value:g} in all {len(target)} training samples"
    return Finding("targets", task.name, evidence, "supply a target that varies, or drop the task")


def _out_of_range(case: Case, k: int, target: Tensor) -> Finding | None:
    task = case.whole.tasks[k]
    if task.activation not in RANGES:
        return None
    loss = TaskLoss(task)
    loss.fit(target)
    low, high = RANGES[task.activation]
    wanted = (target - loss.shift) / loss.scale
    share = outside(task.activation, wanted)
    if share < OUTSIDE:
        return None
    evidence = (
        f"{share:.1%} of its targets lie outside of [{low:g}, {high:g}], all that "
        f"{task.activation} can reach: they are {wanted.min():.3g} to {wanted.max():.3g}"
    )
    edit = Edit(("tasks", k, "activation"), "identity")
    best = case.best([(edit,)], [task.name], at_any_cost=True)
    if best is None:
        remedy = "scale the target into the activation's range"
        return Finding("targets", task.name, evidence, remedy)
    edits, after = best
    effect = told(case.now, after, [task.name])
    case.accept(edits, after)
    return Finding("targets", task.name, evidence, f"set {edit}", edits, effect, (task.name,))


def _leak(task: Task, target: Tensor, features: Tensor) -> Finding | None:
    """A feature that gives the target away, by value or by rank, at the same step.

    Of a window: its mean, its first or its last step.
    """
    wanted = target.double()
    if task.loss.kind == "cross_entropy":
        wanted = wanted.unsqueeze(-1)
    if task.level == "step":
        x, y = features.flatten(0, 1), wanted.flatten(0, 1)
        some = evenly_spaced(len(x), SAMPLES)
        x, y = x[some], y[some]
        where = "at the same step"
    else:
        x = torch.cat([features.mean(1), features[:, 0], features[:, -1]], 1)
        y, where = wanted, "in a window's mean, at its first or its last step"
    x = x.double()
    closest = torch.maximum(_correlations(x, y).abs(), _correlations(_ranks(x), _ranks(y)).abs())
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


def _ranks(values: Tensor) -> Tensor:
    return values.argsort(0).argsort(0).double()


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
    evidence = (
        f"one answer is right for {share:.1%} of its elements: who always gives it has a loss of "
        f"{case.first.baselines[task.name].constant['train']:.3g}; on the validation split the "
        f"task ends at {case.first.end(task.name, 'validation'):.3g}"
    )
    remedy = "weigh or resample the data"
    if any(isinstance(g, SkillGate) and g.task == task.name for g in case.whole.gates):
        return Finding("targets", task.name, evidence, remedy)
    wanted = {"task": task.name, "skill": 0.0, "by_epoch": case.whole.train.epochs}
    gate = Edit(("gates", -1), wanted)
    case.accept([gate], case.now)  # which a probe does not read
    remedy += f"; set {gate}, so that a run that knows no more fails"
    return Finding("targets", task.name, evidence, remedy, (gate,))
