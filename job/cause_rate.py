"""A learning rate so high that losses rise."""

from __future__ import annotations

from collections.abc import Iterator

from job.edit import Edit
from job.finding import KNOWS, Case, Finding, told
from job.probe import Probe

MUCH = 0.3
"""Of the weights' own size, that a step moves one by: AdamW moves each by about its rate."""
RISEN = 1.5
"""Times a loss before, from which it has risen."""
LOWER = (3, 10, 30, 100)
"""What the rate is divided by, in turn."""


def find(case: Case) -> Iterator[Finding]:
    """One finding where most tasks' losses rise, or are not finite, and a lower rate mends it."""
    first, optimizer = case.first, case.first.spec.optimizer
    risen = [n for n in first.names if _risen(first.losses(n), first.trivial(n))]
    leaps = max(
        optimizer.lr / first.sizes["trunk"],
        (optimizer.head_lr or optimizer.lr) / first.sizes["heads"],
    )
    if first.broken is None and 2 * len(risen) < len(first.names) and leaps < MUCH:
        return
    rates = [("lr", optimizer.lr)]
    rates += [("head_lr", optimizer.head_lr)] if optimizer.head_lr is not None else []
    candidates = [
        tuple(Edit(("optimizer", key), float(f"{lr / by:.2g}")) for key, lr in rates)
        for by in LOWER
    ]
    best = _least_bad(case, candidates) if first.broken else case.best(candidates, case.open)
    if best is None:
        return
    edits, after = best
    rise = ", ".join(
        f"{n} from {first.losses(n)[0]:.3g} to {max(first.losses(n)):.3g}" for n in risen
    )
    evidence = f"at lr {optimizer.lr:g} a step moves a weight by {leaps:.2g} of the weights' size"
    evidence += f"; {first.broken}" if first.broken else ""
    evidence += f"; losses rose in the probe: {rise}" if rise and not first.broken else ""
    helped = () if first.broken else case.helped(after, case.open)
    effect = told(case.now, after, helped or case.open)
    case.accept(edits, after)
    remedy = "set " + ", ".join(map(str, edits))
    yield Finding("learning_rate", None, evidence, remedy, edits, effect, helped)


def _least_bad(
    case: Case, candidates: list[tuple[Edit, ...]]
) -> tuple[tuple[Edit, ...], Probe] | None:
    """Of a run that breaks: the rate at which it does not, and learns best."""
    tried = [(edits, case.try_(*edits)) for edits in candidates]
    whole = [(edits, after) for edits, after in tried if after is not None]
    learned = [each for each in whole if any(each[1].skill(n) > KNOWS for n in case.open)]
    return max(
        learned, key=lambda each: sum(max(each[1].skill(n), -1) for n in case.open), default=None
    )


def _risen(losses: list[float], trivial: float) -> bool:
    """Whether the loss was ever far above its first value, or ends far above its lowest."""
    up = losses[-1] - min(losses)
    return not (max(losses) <= RISEN * losses[0] and up <= (RISEN - 1) * trivial)
