"""Learning rate: so high that losses rise."""

from __future__ import annotations

from collections.abc import Iterator

from job.diagnose.case import KNOWS, Case, Finding, loss_changes, remedy
from job.diagnose.probe import Probe
from job.spec import Sgd
from job.spec.patch import Edit

MUCH = 0.3
"""Step of a weight over the weights' size, above which a rate is suspect (Adam's step of a weight
is about its rate)."""
RISEN = 1.5
"""A loss of more than this many times an earlier one has risen."""
LOWER = (3, 10, 30, 100)
"""Divisors of the rate that are tried."""


def findings(case: Case) -> Iterator[Finding]:
    """A finding if most losses rise, or one is not finite, and a lower rate helps."""
    first, optimizer = case.first, case.first.spec.optimizer
    risen = [n for n in first.names if _risen(first.losses(n), first.trivial(n))]
    leaps = _leaps(first)
    if first.not_finite is None and 2 * len(risen) < len(first.names) and leaps < MUCH:
        return
    rates = [("lr", optimizer.lr)]
    rates += [("head_lr", optimizer.head_lr)] if optimizer.head_lr is not None else []
    candidates = [
        tuple(Edit(("optimizer", key), float(f"{lr / by:.2g}")) for key, lr in rates)
        for by in LOWER
    ]
    best = (
        _least_bad(case, candidates)
        if first.not_finite
        else case.best_edits(candidates, case.open_tasks)
    )
    if best is None:
        return
    edits, after = best
    rise = ", ".join(
        f"{n} from {first.losses(n)[0]:.3g} to {max(first.losses(n)):.3g}" for n in risen
    )
    evidence = f"at lr {optimizer.lr:g}"
    evidence += f" a step changes a weight by {leaps:.2g} of the weights' size" if leaps else ""
    evidence += f"; {first.not_finite}" if first.not_finite else ""
    evidence += f"; losses rise in the probe: {rise}" if rise and not first.not_finite else ""
    helped = () if first.not_finite else case.helped(after, case.open_tasks)
    effect = loss_changes(case.now, after, helped or case.open_tasks)
    case.accept(edits, after)
    yield Finding("learning_rate", None, evidence, remedy(edits), edits, effect, helped)


def _leaps(probe: Probe) -> float:
    """What a step changes a weight by, over the weights' size; 0 for SGD, where nothing tells."""
    optimizer = probe.spec.optimizer
    if isinstance(optimizer, Sgd):
        return 0.0
    heads = (optimizer.head_lr or optimizer.lr) / probe.sizes["heads"]
    return max(optimizer.lr / probe.sizes["trunk"], heads)


def _least_bad(
    case: Case, candidates: list[tuple[Edit, ...]]
) -> tuple[tuple[Edit, ...], Probe] | None:
    """For a run with values that are not finite: the finite candidate that learns best."""
    tried = [(edits, case.probe_with(*edits)) for edits in candidates]
    whole = [(edits, after) for edits, after in tried if after is not None]
    learned = [each for each in whole if any(each[1].skill(n) > KNOWS for n in case.open_tasks)]
    return max(
        learned,
        key=lambda each: sum(max(each[1].skill(n), -1) for n in case.open_tasks),
        default=None,
    )


def _risen(losses: list[float], trivial: float) -> bool:
    """True if a loss is ever far above its first value, or ends far above its lowest."""
    up = losses[-1] - min(losses)
    return not (max(losses) <= RISEN * losses[0] and up <= (RISEN - 1) * trivial)
