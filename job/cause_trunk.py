"""What the tasks do to each other at the shared trunk: one starves, or two are in conflict."""

from __future__ import annotations

import math
from collections.abc import Iterator

from job.alarms import OPPOSED, STARVED
from job.edit import Edit
from job.finding import Case, Finding, gain, told
from job.probe import Probe
from job.spec import RunningMean, RunningMeanSqrtN, TorchJD

PAIRS = 3
"""Pairs in conflict that are tried, the most opposed first."""
LITTLE = 0.5
"""Of an even share of the gradient at z, under which a stuck task may starve."""


def starved(case: Case) -> Iterator[Finding]:
    """Tasks with little of the gradient at z, that another balancer makes learn."""
    stuck, even = case.stuck(), 1 / len(case.now.names)
    few = [
        name
        for name in case.now.names
        if name in case.open
        and min(share(case.first, name), share(case.now, name))
        < even * (LITTLE if name in stuck else STARVED)
    ]
    if not few or even == 1:
        return
    best = case.best(list(_balancers(case)), few)
    if best is None:
        return
    edits, after = best
    helped = case.helped(after, few)
    for name in sorted(helped, key=lambda name: share(case.first, name)):
        yield Finding(
            "starved",
            name,
            _split(case.first, name),
            "set " + ", ".join(map(str, edits)),
            edits,
            f"its share becomes {share(after, name):.1%}; {told(case.now, after, [name])}",
            (name,),
        )
    case.accept(edits, after)


def share(probe: Probe, name: str) -> float:
    """Mean share of the combined gradient at z."""
    return probe.mean_of(name, "grad_share")


def _balancers(case: Case) -> Iterator[tuple[Edit, ...]]:
    balance = case.spec.balance
    if not isinstance(balance, TorchJD) and balance.weights:
        yield (Edit(("balance", "weights"), {}),)
    for kind in ("running_mean_sqrt_n", "gradient_norm"):
        if balance.kind != kind or (not isinstance(balance, TorchJD) and balance.weights):
            yield (Edit(("balance",), {"kind": kind}),)


def _split(probe: Probe, name: str) -> str:
    """Its share, and what it comes from: each a factor to the geometric mean of the tasks."""
    factors = {n: _factors(probe, n) for n in probe.names}
    parts = []
    for what, mine in factors[name].items():
        others = [f[what] for f in factors.values() if f[what] > 0]
        mean = math.exp(sum(map(math.log, others)) / len(others)) if others else math.nan
        parts.append(f"{what} ×{mine / mean:.2g}")
    at, steps = share(probe, name), len(probe.steps)
    weight = probe.mean_of(name, "weight")
    return (
        f"{at:.1%} of the gradient at z over {steps} steps, {1 / len(probe.names):.0%} would be "
        f"even; effective weight {weight:.3g}; beside the tasks' geometric mean: {', '.join(parts)}"
    )


def _factors(probe: Probe, name: str) -> dict[str, float]:
    """What a task's pull at z, weight × norm, is made of; their product is the pull.

    The mean over a task's O outputs makes a gradient's norm 1/√O of what one output's is, as far as
    their gradients are independent: O parts of 1/O each. That over T steps is in every task's: a
    window task reads z's mean over them. Cross-entropy takes no mean over its classes.
    """
    balance, spec = probe.spec.balance, probe.spec
    task = next(t for t in spec.tasks if t.name == name)
    weight = probe.mean_of(name, "weight")
    by_hand = balance.weights.get(name, 1.0) if not isinstance(balance, TorchJD) else 1.0
    if isinstance(balance, RunningMeanSqrtN):
        steps = probe.data.train.features.shape[1] if task.level == "step" else 1
        by_hand *= math.sqrt(task.outputs * steps)
    normed = "division by the loss" if isinstance(balance, RunningMean) else "balancer"
    reduction = 1.0 if task.loss.kind == "cross_entropy" else 1 / math.sqrt(task.outputs)
    return {
        "weight": by_hand,
        normed: abs(weight) / by_hand,
        "mean over its outputs": reduction,
        "its head and errors": probe.mean_of(name, "grad_norm") / reduction,
    }


def conflict(case: Case) -> Iterator[Finding]:
    """Pairs of tasks whose gradients oppose each other, where another edit makes both learn."""
    tried: set[tuple[str, str]] = set()
    while len(tried) < PAIRS and (pairs := [p for p in _opposed(case) if p not in tried]):
        tried.add(pairs[0])
        a, b = pairs[0]
        best = case.best(list(_peace(case)), pairs[0])
        if best is None:
            continue
        edits, after = best
        harmed = max(pairs[0], key=lambda name: gain(case.now, after, name))
        other, effect = b if harmed == a else a, case.now.effects[harmed]
        yield Finding(
            "conflict",
            harmed,
            f"its gradient at z has a mean cosine of {case.now.cosines[a][b]:.2f} with {other}'s; "
            f"{effect.steps} steps looked at changed its loss through the trunk by "
            f"{effect.measured:+.1%} in all ({effect.predicted:+.1%} to first order)",
            "set " + ", ".join(map(str, edits)),
            edits,
            told(case.now, after, [a, b]),
            case.helped(after, pairs[0]),
        )
        case.accept(edits, after)


def _opposed(case: Case) -> list[tuple[str, str]]:
    """Pairs by their mean cosine, the most opposed first."""
    names, cosines = case.open, case.now.cosines
    pairs = [
        (cosines[a][b], a, b)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if cosines.get(a, {}).get(b, 0.0) < OPPOSED
    ]
    return [(a, b) for _, a, b in sorted(pairs)]


def _peace(case: Case) -> Iterator[tuple[Edit, ...]]:
    model = case.spec.model
    for method in ("UPGrad", "AlignedMTL"):
        yield (Edit(("balance",), {"kind": "torchjd", "method": method}),)
    if model.hidden < 128:
        yield (Edit(("model", "hidden"), min(4 * model.hidden, 128)),)
