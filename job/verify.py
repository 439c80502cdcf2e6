"""Whether a diagnosis' predictions hold: the spec and its fixed twin, trained side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from job.compare import Outcome, Variant, compare
from job.diagnose import Diagnosis
from job.finding import gain
from job.spec import JobSpec
from job.summary import summary

BEFORE, AFTER = "as it is", "fixed"
HOLDS = 0.5
"""Share of the predicted fall of a loss that must come about."""


def verify(
    diagnosis: Diagnosis,
    spec: JobSpec,
    fixed: JobSpec,
    folder: Path,
    seeds: int,
    workers: int,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """JSON values: `rows`, as job.summary has them, and `predictions` of each task found.

    predicted, measured: share by which the task's training loss, original units, ends lower in the
    fixed run; mean over the seeds. gates: of the fixed run, on how many seeds it passed all.
    """
    rows = [Variant(BEFORE, spec, folder), Variant(AFTER, fixed, folder)]
    outcomes = compare(rows, seeds, workers, progress)
    tasks = {f.task for f in diagnosis.findings if f.task is not None and f.edits}
    predictions = {
        task: _prediction(diagnosis, outcomes, task)
        for task in diagnosis.before.names
        if task in tasks
    }
    last = [o for o in outcomes if o.variant == AFTER]
    passed = sum(o.error is None and all(g.passed for g in o.gates) for o in last)
    return {
        "rows": summary(outcomes),
        "predictions": predictions,
        "gates": {"passed": passed, "seeds": seeds, "of": len(fixed.gates)},
    }


def _prediction(diagnosis: Diagnosis, outcomes: list[Outcome], task: str) -> dict[str, Any]:
    predicted = gain(diagnosis.before, diagnosis.after, task)
    ends: dict[tuple[str, int], float] = {
        (o.variant, o.seed): o.epochs[-1].tasks[task].train_loss_original
        for o in outcomes
        if o.error is None and o.epochs
    }
    pairs = [
        (ends[BEFORE, seed], ends[AFTER, seed])
        for variant, seed in ends
        if variant == BEFORE and (AFTER, seed) in ends
    ]
    falls = [1 - now / was for was, now in pairs if was > 0]
    measured = sum(falls) / len(falls) if falls else None
    held = measured is not None and measured >= HOLDS * predicted
    return {"predicted": predicted, "measured": measured, "seeds": len(falls), "held": held}
