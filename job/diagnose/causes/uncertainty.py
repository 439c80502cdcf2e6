"""Uncertainty weighting: learned weights that hardly move, or that have settled.

Settled, σ² = L, so the weight is 1/(2L) (see job/balance/uncertainty.py): each loss is divided by
itself, which is loss normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from job.balance.uncertainty import resting_weight
from job.diagnose.case import Case, Finding, remedy, skill_changes
from job.diagnose.probe import Probe, grad_share
from job.spec import Uncertainty
from job.spec.patch import Edit
from job.train.alarms.of_training import OFF, STARVED

AT_REST = math.log(1.25)
"""Distance from 1/(2L), in log, below which a weight has settled."""


def findings(case: Case) -> Iterator[Finding]:
    """Findings on a spec with learned weights."""
    balance, now = case.spec.balance, case.now
    if not isinstance(balance, Uncertainty) or not now.steps:
        return
    gaps = {name: _gap(now, name, balance.weights.get(name, 1.0)) for name in now.names}
    late = {name: gap for name, gap in gaps.items() if gap.left > OFF and gap.left > gap.to_come}
    if late:
        yield from _frozen(case, balance, late)
    elif case.not_learning() and all(gap.left < AT_REST for gap in gaps.values()):
        yield from _resting(case, balance)


class _Gap:
    """Distances of a learned weight from its resting value, in log."""

    def __init__(self, start: float, weight: float, rest: float, taken: int, planned: int) -> None:
        self.weight, self.rest = weight, rest
        self.whole = abs(math.log(rest / start))
        self.left = abs(math.log(rest / weight))
        self.to_come = abs(math.log(weight / start)) / taken * (planned - taken)
        """Distance that it will still move in the run, at its pace in the probe."""


def _gap(probe: Probe, name: str, by_hand: float) -> _Gap:
    """The distances at the end of a probe; by_hand: the task's weight in the spec."""
    loss = max(probe.evaluations[-1].train.transformed[probe.names.index(name)], 1e-12)
    last = probe.steps[-1].tasks[name].weight
    rest = resting_weight(by_hand, loss)
    return _Gap(0.5 * by_hand, last, rest, len(probe.steps), probe.planned)


def _frozen(case: Case, balance: Uncertainty, late: dict[str, _Gap]) -> Iterator[Finding]:
    """A finding on weights that do not settle, if a higher rate helps or a task does not learn."""
    name, gap = max(late.items(), key=lambda item: item[1].left)
    lr, by_hand = balance.lr or case.spec.optimizer.lr, balance.weights.get(name, 1.0)
    widest = max(each.whole for each in late.values())
    # Adam moves a log variance by about its rate a step: it arrives at the end, or at a quarter.
    rates = {float(f"{min(max(k * widest / case.now.planned, lr), 1):.1g}") for k in (1, 4)}
    evidence = (
        f"its weight among the tasks is learned: it went from {0.5 * by_hand:.3g} to "
        f"{gap.weight:.3g} in {len(case.now.steps)} steps at lr {lr:g}. It suits the task's loss "
        f"at {by_hand:g}/(2 loss) = {gap.rest:.3g}: at that pace it does not get there in this "
        f"run, so the task counts for too little or too much"
    )
    best = case.best_edits(
        [(Edit(("balance", "lr"), rate),) for rate in sorted(rates)], case.open_tasks
    )
    if best is not None:
        edits, after = best
        helped = case.helped(after, case.open_tasks)
        effect = skill_changes(case.now, after, helped)
        case.accept(edits, after)
        yield Finding("uncertainty", name, evidence, remedy(edits), edits, effect, helped)
    elif case.not_learning() or any(
        grad_share(case.now, n) < STARVED / len(case.now.names) for n in late
    ):
        yield Finding(
            "uncertainty",
            name,
            evidence,
            "set balance to another kind: a higher balance.lr alone did not help",
        )


def _resting(case: Case, balance: Uncertainty) -> Iterator[Finding]:
    """The finding on settled weights while a task is stuck: it needs another balancer."""
    stuck = case.not_learning()
    weights = {"weights": dict(balance.weights)} if balance.weights else {}
    kinds = ("running_mean_sqrt_n", "gradient_norm", "fixed")
    best = case.best_edits(
        [(Edit(("balance",), {"kind": kind} | weights),) for kind in kinds], stuck
    )
    evidence = (
        "all learned weights have settled at weight/(2 loss), so that each loss is divided by "
        "itself: every task counts the same, and a task that needs more of the shared layers does "
        "not get it"
    )
    if best is None:
        same = "running_mean gives the same weights, without parameters that lag behind"
        yield Finding("uncertainty", None, evidence, same)
        return
    edits, after = best
    helped = case.helped(after, stuck)
    effect = skill_changes(case.now, after, helped)
    case.accept(edits, after)
    yield Finding("uncertainty", None, evidence, remedy(edits), edits, effect, helped)
