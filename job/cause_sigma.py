"""Uncertainty weighting that does not move, or that has come to rest as loss normalisation.

At rest σ² = L, so the weight is 1/(2L) (job.balance.Uncertainty): each loss divided by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from job.alarms import OFF
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
        yield _frozen(case, late)
    elif case.stuck() and all(gap.left < AT_REST for gap in gaps.values()):
        yield from _resting(case)


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
    start, last = 0.5 * by_hand, probe.steps[-1].tasks[name].weight
    return _Gap(start, last, start / loss, len(probe.steps), probe.planned)


def _frozen(case: Case, late: dict[str, _Gap]) -> Finding:
    name, gap = max(late.items(), key=lambda item: item[1].left)
    optimizer, balance = case.spec.optimizer, case.spec.balance
    assert isinstance(balance, Uncertainty)
    lr = balance.lr or optimizer.lr
    widest = max(each.whole for each in late.values())
    # Adam moves a log variance by about its rate a step: there in a quarter of the run.
    edit = Edit(("balance", "lr"), float(f"{min(max(4 * widest / case.now.planned, lr), 1):.1g}"))
    evidence = (
        f"its weight went from {0.5 * balance.weights.get(name, 1.0):.3g} to {gap.weight:.3g} in "
        f"{len(case.now.steps)} steps and would rest at 1/(2 loss) = {gap.rest:.3g}: at lr {lr:g} "
        f"log variances hardly move, and tasks are weighed as in a plain sum"
    )
    effect, tried = "", case.try_(edit)
    if tried is not None:
        effect = told(case.now, tried, late)
        case.accept([edit], tried)
    return Finding("uncertainty", name, evidence, f"set {edit}", (edit,), effect)


def _resting(case: Case) -> Iterator[Finding]:
    stuck = case.stuck()
    kinds = ("running_mean_sqrt_n", "gradient_norm", "fixed")
    best = case.best([(Edit(("balance",), {"kind": kind}),) for kind in kinds], stuck)
    evidence = (
        "all learned weights are at rest at 1/(2 loss): each loss is divided by itself, which is "
        "loss normalisation and no more"
    )
    if best is None:
        edit = Edit(("balance",), {"kind": "running_mean"})
        effect = "the same weights, without parameters that lag behind"
        case.accept([edit], case.try_(edit) or case.now)
        yield Finding("uncertainty", None, evidence, f"set {edit}", (edit,), effect)
        return
    edits, after = best
    effect = told(case.now, after, stuck)
    case.accept(edits, after)
    yield Finding("uncertainty", None, evidence, f"set {edits[0]}", edits, effect)
