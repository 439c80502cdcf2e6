"""Learning rate: so high that losses rise, or so low that hardly anything moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from job.diagnose.case import KNOWS, Case, Finding, is_risen, remedy, skill_changes
from job.diagnose.probe import Probe
from job.spec import JobSpec, Sgd
from job.spec.patch import Edit

MUCH = 0.3
"""Step of a weight over the weights' size, above which a rate is suspect (Adam's step of a weight
is about its rate)."""
RISEN = 1.5
"""A loss of more than this many times an earlier one has risen."""
LOWER = (3, 10, 30, 100)
"""Divisors of the rate that are tried."""
LOWEST = (1000, 10_000)
"""Divisors that are tried if values are not finite at any other, nor with other scales."""
HIGHER = (10, 100, 1000)
"""Factors of the rate that are tried."""
HIGHEST, FASTEST = {"sgd": 1.0}, 0.03
"""The highest rate that is tried, by optimizer; of the others FASTEST, beyond which Adam breaks."""


def too_high(case: Case) -> Iterator[Finding]:
    """A finding if most losses rise, or one is not finite, and a lower rate helps."""
    first = case.first
    risen = [n for n in first.names if _has_risen(first.losses(n), first.trivial(n))]
    leap = leaps(first)
    if first.not_finite is None and 2 * len(risen) < len(first.names) and leap < MUCH:
        return
    candidates = [_times(case.spec, 1 / by) for by in LOWER]
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
    evidence = f"at lr {first.spec.optimizer.lr:g}"
    evidence += f" a step changes a weight by {leap:.2g} times its usual size" if leap else ""
    evidence += f"; {first.not_finite}" if first.not_finite else ""
    evidence += f"; losses rise: {rise}" if rise and not first.not_finite else ""
    helped = () if first.not_finite else case.helped(after, case.open_tasks)
    effect = skill_changes(case.now, after, helped or case.open_tasks)
    case.accept(edits, after)
    yield Finding("learning_rate", None, evidence, remedy(edits), edits, effect, helped)


def far_too_high(case: Case) -> Iterator[Finding]:
    """A finding if values are finite at a rate that is lower by far, and at no other."""
    if not case.now.not_finite:
        return
    for by in LOWEST:
        edits = _times(case.spec, 1 / by)
        after = case.probe_with(*edits)
        if after is None or not all(map(after.has_fallen, after.names)):
            continue
        evidence = (
            f"at lr {case.spec.optimizer.lr:g}, {case.now.not_finite}; no better at a hundredth of "
            f"it. At {after.spec.optimizer.lr:g} every loss falls"
        )
        effect = skill_changes(case.now, after, case.open_tasks)
        case.accept(edits, after)
        yield Finding("learning_rate", None, evidence, remedy(edits), edits, effect)
        return


def too_low(case: Case) -> Iterator[Finding]:
    """A finding if weak tasks learn at a rate that is higher by more than the run is longer.

    A run of n times the probe's steps goes about as far as the probe at n times the rate. A task
    that ends without skill has not learned, however far its loss has fallen. A rate that costs
    another task is no remedy in a run that is longer: it has the time to learn both.
    """
    weak, now = case.weak(), case.now
    highest = HIGHEST.get(now.spec.optimizer.kind, FASTEST)
    rates = [_times(now.spec, by) for by in HIGHER if now.spec.optimizer.lr * by <= highest]
    helpful = case.helpful_edits(rates, weak) if weak else []
    longer = now.planned / now.evaluations[-1].step
    best = case.best_of(helpful, weak)
    if best is None and longer <= RISEN:
        best = case.best_of(helpful, weak, at_any_cost=True)
    if best is not None and longer > RISEN:
        best = _beyond(case, _times(now.spec, longer), best, weak)
    if best is None:
        return
    edits, after = best
    helped = tuple(
        name for name in case.helped(after, weak) if after.knows(name) or after.knows(name, "train")
    )
    if not helped:
        return
    lr = now.spec.optimizer.lr
    evidence = (
        f"of the rates {lr:g}{''.join(f', {each[0].value:g}' for each in rates)} the tasks learn "
        f"most in {now.evaluations[-1].step} steps at {after.spec.optimizer.lr:g}; at {lr:g} a run "
        f"of {now.planned} steps is too short for them"
    )
    effect = skill_changes(now, after, helped)
    finding = Finding("learning_rate", None, evidence, remedy(edits), edits, effect, helped)
    yield case.offer(finding, after)


def around(spec: JobSpec) -> tuple[tuple[Edit, ...], ...]:
    """Edits to a tenth, ten times and a hundred times the rate, as far as those are tried."""
    highest = HIGHEST.get(spec.optimizer.kind, FASTEST)
    factors = (f for f in (0.1, 10, 100) if spec.optimizer.lr * f <= highest)
    return tuple(_times(spec, factor) for factor in factors)


def _beyond(
    case: Case,
    as_long: tuple[Edit, ...],
    best: tuple[tuple[Edit, ...], Probe],
    tasks: Sequence[str],
) -> tuple[tuple[Edit, ...], Probe] | None:
    """The best edits if they also beat the rate with which the probe goes as far as the run."""
    whole = case.probe_with(*as_long)
    if whole is None or not any(is_risen(whole, best[1], task) for task in tasks):
        return None
    return best


def _times(spec: JobSpec, factor: float) -> tuple[Edit, ...]:
    """The edits that multiply the learning rates, 1 at most."""
    optimizer = spec.optimizer
    rates = [("lr", optimizer.lr)]
    rates += [("head_lr", optimizer.head_lr)] if optimizer.head_lr is not None else []
    return tuple(
        Edit(("optimizer", key), float(f"{min(lr * factor, 1.0):.2g}")) for key, lr in rates
    )


def leaps(probe: Probe) -> float:
    """What a step changes a weight by, over the weights' size; 0 where nothing tells.

    That is for SGD, and for weights that all start at 0, of which a step is no part.
    """
    optimizer = probe.spec.optimizer
    if isinstance(optimizer, Sgd):
        return 0.0
    rates = {"trunk": optimizer.lr, "heads": optimizer.head_lr or optimizer.lr}
    return max(rate / probe.sizes[of] if probe.sizes[of] else 0.0 for of, rate in rates.items())


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


def _has_risen(losses: list[float], trivial: float) -> bool:
    """True if a loss is ever far above its first value, or ends far above its lowest."""
    up = losses[-1] - min(losses)
    return not (max(losses) <= RISEN * losses[0] and up <= (RISEN - 1) * trivial)
