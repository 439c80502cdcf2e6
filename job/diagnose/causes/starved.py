"""Starved: a task has too little of the gradient at the shared representation z."""

from __future__ import annotations

import math
from collections.abc import Iterator

from job.diagnose.case import Case, Finding, remedy, skill_changes
from job.diagnose.probe import Probe, grad_share
from job.spec import RunningMean, RunningMeanSqrtN, TorchJD
from job.spec.patch import Edit
from job.train.alarms.of_training import STARVED

LITTLE = 0.5
"""Part of an even share of the gradient at z, below which a stuck task may starve."""


def findings(case: Case) -> Iterator[Finding]:
    """Findings on tasks with little of the gradient at z, if another balancer helps them.

    If every balancer that feeds a stuck task costs another one, that is told in words.
    """
    stuck, even = case.not_learning(), 1 / len(case.now.names)
    few = [
        name
        for name in case.now.names
        if name in case.open_tasks
        and min(grad_share(case.first, name), grad_share(case.now, name))
        < even * (LITTLE if name in stuck else STARVED)
    ]
    if not few or even == 1:
        return
    helpful = case.helpful_edits(list(_balancers(case)), few)
    best = case.best_of(helpful, few)
    if best is None:
        fed = [each for each in helpful if {*case.helped(each[1], few)} & {*stuck}]
        best = case.best_of(fed, case.open_tasks, at_any_cost=True)
    if best is None:
        return
    edits, after = best
    helped = case.helped(after, few)
    costly = bool(case.harmed(after))
    for name in sorted(helped, key=lambda name: grad_share(case.first, name)):
        finding = Finding(
            "starved",
            name,
            _evidence(case.first, name),
            remedy(edits),
            edits,
            f"its share becomes {grad_share(after, name):.1%}; "
            f"{skill_changes(case.now, after, [name])}",
            (name,),
        )
        yield case.offer(finding, after) if costly else finding
    if not costly:
        case.accept(edits, after)


def _balancers(case: Case) -> Iterator[tuple[Edit, ...]]:
    """Edits that may give the task a larger share: no weights, or another balancer."""
    balance = case.spec.balance
    if not isinstance(balance, TorchJD) and balance.weights:
        yield (Edit(("balance", "weights"), {}),)
    for kind in ("running_mean_sqrt_n", "gradient_norm"):
        if balance.kind != kind or (not isinstance(balance, TorchJD) and balance.weights):
            yield (Edit(("balance",), {"kind": kind}),)


def _evidence(probe: Probe, name: str) -> str:
    """A task's share and its factors, each beside the tasks' geometric mean."""
    factors = {n: _factors(probe, n) for n in probe.names}
    parts = []
    for what, mine in factors[name].items():
        others = [f[what] for f in factors.values() if f[what] > 0]
        mean = math.exp(sum(map(math.log, others)) / len(others)) if others else math.nan
        parts.append(f"{what} ×{mine / mean:.2g}")
    at, steps = grad_share(probe, name), len(probe.steps)
    weight = probe.mean_of(name, "weight")
    return (
        f"over {steps} steps, {at:.1%} of the gradients that move the layers which the tasks share "
        f"is its own; an even share is {1 / len(probe.names):.0%}. So these layers learn what the "
        f"other tasks need. Its weight in the sum of the gradients is {weight:.3g}. What makes its "
        f"share, compared with a typical task: {', '.join(parts)}"
    )


def _factors(probe: Probe, name: str) -> dict[str, float]:
    """The factors of a task's pull at z, weight × norm; their product is the pull.

    The mean over a task's O outputs makes the gradient's norm 1/√O of that of one output, if their
    gradients are independent: it has O parts of 1/O each. A mean over the T steps is in every
    task's gradient, as window tasks read the mean of z. Classes and lists have no such mean.
    """
    balance, spec = probe.spec.balance, probe.spec
    task = next(t for t in spec.tasks if t.name == name)
    weight = probe.mean_of(name, "weight")
    by_hand = balance.weights.get(name, 1.0) if not isinstance(balance, TorchJD) else 1.0
    if isinstance(balance, RunningMeanSqrtN):
        steps = probe.data.train.positions if task.level == "step" else 1
        by_hand *= math.sqrt(task.outputs * steps)
    normed = "division by the loss" if isinstance(balance, RunningMean) else "balancer"
    one = task.loss.of_classes or task.loss.whole
    reduction = 1.0 if one else 1 / math.sqrt(task.outputs)
    return {
        "weight": by_hand,
        normed: abs(weight) / by_hand,
        "mean over its outputs": reduction,
        "size of its errors and of its head's weights": probe.mean_of(name, "grad_norm")
        / reduction,
    }
