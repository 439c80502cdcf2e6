"""Uncertainty weighting that does not move, or that has come to rest as loss normalisation.

At rest σ² = L, so the weight is 1/(2L) (job.balance.Uncertainty): each loss divided by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from job.alarms import OFF, STARVED, resting_weight
from job.cause_trunk import share
from job.edit import Edit
from job.finding import Case, Finding, told
from job.probe import Probe
from job.spec import Uncertainty

AT_REST = math.log(1.25)
"""How near to 1/(2L) a weight is at rest, in log."""


def find(case: Case) -> Iterator[Finding]:
    """Of a spec that learns its weights."""
    balance, now = case.spec.balance, case.now
    if not isinstance(balance, Uncertainty) or not now.steps:
        return
    gaps = {name: _gap(now, name, balance.weights.get(name, 1.0)) for name in now.names}
    late = {name: gap for name, gap in gaps.items() if gap.left > OFF and gap.left > gap.to_come}
    if late:
        yield from _frozen(case, balance, late)
    elif case.stuck() and all(gap.left < AT_REST for gap in gaps.values()):
        yield from _resting(case, balance)


class _Gap:
    """Of a learned weight to where it would rest, in log."""

    def __init__(self, start: float, weight: float, rest: float, taken: int, planned: int) -> None:
        self.weight, self.rest = weight, rest
        self.whole = abs(math.log(rest / start))
        self.left = abs(math.log(rest / weight))
        self.to_come = abs(math.log(weight / start)) / taken * (planned - taken)
        """How much more it will move, at its pace."""


def _gap(probe: Probe, name: str, by_hand: float) -> _Gap:
    loss = max(probe.looks[-1].train.transformed[probe.names.index(name)], 1e-12)
    last = probe.steps[-1].tasks[name].weight
    rest = resting_weight(by_hand, loss)
    return _Gap(0.5 * by_hand, last, rest, len(probe.steps), probe.planned)


def _frozen(case: Case, balance: Uncertainty, late: dict[str, _Gap]) -> Iterator[Finding]:
    """Weights that do not come to rest; a finding if others learn more, or if one is stuck."""
    name, gap = max(late.items(), key=lambda item: item[1].left)
    lr, by_hand = balance.lr or case.spec.optimizer.lr, balance.weights.get(name, 1.0)
    widest = max(each.whole for each in late.values())
    # Adam moves a log variance by about its rate a step: there at the end, or in a quarter of it.
    rates = {float(f"{min(max(k * widest / case.now.planned, lr), 1):.1g}") for k in (1, 4)}
    evidence = (
        f"its weight went from {0.5 * by_hand:.3g} to {gap.weight:.3g} in {len(case.now.steps)} "
        f"steps at lr {lr:g}, and would rest at {by_hand:g}/(2 loss) = {gap.rest:.3g}: at "
        f"that pace it does not come there in this run"
    )
    best = case.best([(Edit(("balance", "lr"), rate),) for rate in sorted(rates)], case.open)
    if best is not None:
        edits, after = best
        helped = case.helped(after, case.open)
        effect = told(case.now, after, helped)
        case.accept(edits, after)
        yield Finding("uncertainty", name, evidence, f"set {edits[0]}", edits, effect, helped)
    elif case.stuck() or any(share(case.now, n) < STARVED / len(case.now.names) for n in late):
        yield Finding("uncertainty", name, evidence, "a faster rate alone did not help")


def _resting(case: Case, balance: Uncertainty) -> Iterator[Finding]:
    """Weights at rest while a task is stuck: loss normalisation is not what it needs."""
    stuck = case.stuck()
    weights = {"weights": dict(balance.weights)} if balance.weights else {}
    kinds = ("running_mean_sqrt_n", "gradient_norm", "fixed")
    best = case.best([(Edit(("balance",), {"kind": kind} | weights),) for kind in kinds], stuck)
    evidence = (
        "all learned weights are at rest at weight/(2 loss): each loss is divided by itself, which "
        "is loss normalisation and no more"
    )
    if best is None:
        remedy = "running_mean gives the same weights, without parameters that lag behind"
        yield Finding("uncertainty", None, evidence, remedy)
        return
    edits, after = best
    helped = case.helped(after, stuck)
    effect = told(case.now, after, helped)
    case.accept(edits, after)
    yield Finding("uncertainty", None, evidence, f"set {edits[0]}", edits, effect, helped)
