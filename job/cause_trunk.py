"""What the tasks do to each other at the shared trunk: one starves, or two are in conflict."""

from __future__ import annotations

import math
from collections.abc import Iterator

from job.alarms import OPPOSED, STARVED
from job.edit import Edit
from job.finding import GAIN, Case, Finding, gain, told
from job.probe import Probe
from job.spec import RunningMean, RunningMeanSqrtN, TorchJD

LITTLE = 0.5
"""Of an even share of the gradient at z, under which a stuck task may starve."""


def starved(case: Case) -> Iterator[Finding]:
    """Tasks with little of the gradient at z, that another balancer makes learn."""
    stuck, even = case.stuck(), 1 / len(case.now.names)
    few = [
        name
        for name in case.now.names
        if name not in case.closed
        and min(share(case.first, name), share(case.now, name))
        < even * (LITTLE if name in stuck else STARVED)
    ]
    if not few or even == 1:
        return
    best = case.best(list(_balancers(case)), few)
    if best is None:
        return
    edits, after = best
    helped = [name for name in few if gain(case.now, after, name) >= GAIN]
    for name in sorted(helped, key=lambda name: share(case.first, name)):
        yield Finding(
            "starved",
            name,
            _split(case.first, name),
            "set " + ", ".join(map(str, edits)),
            edits,
            f"its share becomes {share(after, name):.1%}; {told(case.now, after, [name])}",
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

    The mean over N outputs makes a gradient's norm 1/√N of what one output's is: its N parts lie
    side by side.
    """
    balance, spec = probe.spec.balance, probe.spec
    task = next(t for t in spec.tasks if t.name == name)
    steps = probe.data.train.features.shape[1] if task.level == "step" else 1
    n = task.outputs * steps
    weight = probe.mean_of(name, "weight")
    by_hand = balance.weights.get(name, 1.0) if not isinstance(balance, TorchJD) else 1.0
    if isinstance(balance, RunningMeanSqrtN):
        by_hand *= math.sqrt(n)
    normed = "division by the loss" if isinstance(balance, RunningMean) else "balancer"
    reduction = 1 / math.sqrt(n)
    rest = probe.mean_of(name, "grad_norm") / reduction
    return {
        "weight": by_hand,
        normed: abs(weight) / by_hand,
        "mean over its outputs": reduction,
        "its head and errors": rest,
    }


def conflict(case: Case) -> Iterator[Finding]:
    """Pairs of tasks whose gradients oppose each other, where another edit makes both learn."""
    for a, b in _opposed(case.now):
        pair = [name for name in (a, b) if name not in case.closed]
        best = case.best(list(_peace(case)), pair)
        if best is None:
            continue
        edits, after = best
        harmed = max(pair, key=lambda name: gain(case.now, after, name))
        cosine, other = case.now.cosines[a][b], b if harmed == a else a
        effect = case.now.effects[harmed]
        yield Finding(
            "conflict",
            harmed,
            f"its gradient at z has a mean cosine of {cosine:.2f} with {other}'s; the steps looked "
            f"at changed its loss through the trunk by {effect.measured:+.1%} in all "
            f"({effect.predicted:+.1%} to first order)",
            "set " + ", ".join(map(str, edits)),
            edits,
            told(case.now, after, [a, b]),
        )
        case.accept(edits, after)


def _opposed(probe: Probe) -> list[tuple[str, str]]:
    """Pairs by their mean cosine, the most opposed first."""
    pairs = [
        (cosine, a, b)
        for i, a in enumerate(probe.names)
        for b, cosine in probe.cosines.get(a, {}).items()
        if b in probe.names[i + 1 :] and cosine < OPPOSED
    ]
    return [(a, b) for _, a, b in sorted(pairs)]


def _peace(case: Case) -> Iterator[tuple[Edit, ...]]:
    model = case.spec.model
    for method in ("UPGrad", "AlignedMTL"):
        yield (Edit(("balance",), {"kind": "torchjd", "method": method}),)
    if model.hidden < 128:
        yield (Edit(("model", "hidden"), min(4 * model.hidden, 128)),)
