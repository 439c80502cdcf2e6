"""Too few steps: the training ends before anything is learned."""

from __future__ import annotations

from collections.abc import Iterator

from job.diagnose.case import Case, Finding, remedy, skill_changes
from job.diagnose.probe import STEPS
from job.spec.patch import Edit

MORE = 4
"""Factor by which epochs are multiplied in a trial."""


def findings(case: Case) -> Iterator[Finding]:
    """A finding if stuck tasks learn in a longer run."""
    stuck, now = case.not_learning(), case.now
    if not stuck or not now.is_whole_run or MORE * now.planned > STEPS:
        return
    for more in (MORE, MORE**2):
        epochs = Edit(("train", "epochs"), more * case.spec.train.epochs)
        tried = case.probe_with(epochs)
        if tried is None:
            return
        learned = [n for n in case.helped(tried, stuck) if tried.skill(n) > 0]
        if 2 * len(learned) < len(stuck):
            continue
        evidence = (
            f"the run is over after {now.planned} steps ({now.batches} an epoch), before anything "
            f"is learned; with {more} times as many steps it is learned"
        )
        effect = skill_changes(now, tried, learned)
        case.accept([epochs], tried)
        edits = (epochs,)
        yield Finding("too_few_steps", None, evidence, remedy(edits), edits, effect, tuple(learned))
        return
