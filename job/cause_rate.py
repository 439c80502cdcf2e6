"""A learning rate so high that losses rise."""

from __future__ import annotations

from collections.abc import Iterator

from job.edit import Edit
from job.finding import Case, Finding, told

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
    tasks = [name for name in first.names if name not in case.closed]
    if first.broken is not None:
        tried = next(((e, p) for e in candidates if (p := case.try_(*e)) is not None), None)
    else:
        tried = case.best(candidates, tasks)
    if tried is None:
        return
    edits, after = tried
    rise = ", ".join(
        f"{n} from {first.losses(n)[0]:.3g} to {max(first.losses(n)):.3g}" for n in risen
    )
    evidence = f"a step moves a weight by {leaps:.2g} of the weights' own size; "
    evidence += first.broken or (f"losses rose in the probe: {rise}" if rise else "none rose")
    effect = told(case.now, after, tasks)
    case.accept(edits, after)
    remedy = "set " + ", ".join(map(str, edits))
    yield Finding(
        "learning_rate", None, f"at lr {optimizer.lr:g}: {evidence}", remedy, edits, effect
    )


def _risen(losses: list[float], trivial: float) -> bool:
    """Whether the loss was ever far above its first value, or ends far above its lowest."""
    up = losses[-1] - min(losses)
    return not (max(losses) <= RISEN * losses[0] and up <= (RISEN - 1) * trivial)
