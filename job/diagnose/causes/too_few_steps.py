"""Too few steps: the training ends before anything is learned, or while losses still fall fast."""

from __future__ import annotations

from collections.abc import Iterator

from job.diagnose.case import WORTH, Case, Finding, remedy, skill_changes
from job.diagnose.probe import STEPS, Probe
from job.spec.patch import Edit

MORE = (4, 16)
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
    for more in dict.fromkeys(min(factor, longest) for factor in MORE):
        epochs = Edit(("train", "epochs"), more * case.spec.train.epochs)
        tried = case.probe_with(epochs)
        if tried is None:
            return
        learned = [n for n in case.helped(tried, early) if tried.skill(n) > 0]
        if 2 * len(learned) < len(early):
            continue
        evidence = (
            f"the run is over after {now.planned} steps ({now.batches} an epoch), before "
            f"{', '.join(learned)} is learned; with {more} times as many steps it is learned"
        )
        effect = skill_changes(now, tried, learned)
        case.accept([epochs], tried)
        edits = (epochs,)
        yield Finding("too_few_steps", None, evidence, remedy(edits), edits, effect, tuple(learned))
        return


def _still_falls(probe: Probe, task: str) -> bool:
    """True if a loss falls so fast at the end that as many steps again would take much of it."""
    losses = probe.losses(task)
    return 2 * (losses[len(losses) // 2] - losses[-1]) > WORTH * losses[-1]
