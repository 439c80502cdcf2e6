"""Too few steps: the training ends before anything is learned, or while losses still fall fast."""

from __future__ import annotations

from collections.abc import Iterator

from job.diagnose.case import WORTH, Case, Finding, remedy, skill_changes
from job.diagnose.probe import STEPS, Probe
from job.spec.patch import Edit

MORE = (4, 16, 64)
"""Factors by which epochs are multiplied in a trial, as far as a probe is long enough."""


def findings(case: Case) -> Iterator[Finding]:
    """A finding if tasks that are stuck, or that have only begun to learn, learn in a longer run.

    It must teach at least half of them.
    """
    now, stuck = case.now, case.not_learning()
    early = [n for n in case.open_tasks if n in stuck or _still_falls(now, n)]
    longest = STEPS // now.planned
    if not now.is_whole_run or longest < 2 or not (stuck or 2 * len(early) >= len(now.names)):
        return
    best: tuple[int, Probe, list[str]] | None = None
    for more in dict.fromkeys(min(factor, longest) for factor in MORE):
        tried = case.probe_with(_epochs(case, more))
        learned = [n for n in case.helped(tried, early) if tried.skill(n) > 0] if tried else []
        if tried is None or 2 * len(learned) < len(early):
            continue
        best = more, tried, learned
        if not any(_still_falls(tried, name) for name in learned):
            break
    if best is None:
        return
    more, tried, learned = best
    evidence = (
        f"the run is over after {now.planned} steps ({now.batches} an epoch), before "
        f"{', '.join(learned)} is learned; with {more} times as many steps it is learned"
    )
    effect, edits = skill_changes(now, tried, learned), (_epochs(case, more),)
    case.accept(edits, tried)
    yield Finding("too_few_steps", None, evidence, remedy(edits), edits, effect, tuple(learned))


def _epochs(case: Case, more: int) -> Edit:
    return Edit(("train", "epochs"), more * case.spec.train.epochs)


def _still_falls(probe: Probe, task: str) -> bool:
    """True if a loss falls so fast at the end that as many steps again would take much of it."""
    losses = probe.losses(task)
    return 2 * (losses[len(losses) // 2] - losses[-1]) > WORTH * losses[-1]
