"""Checks a diagnosis' predictions: trains the spec and the fixed spec on the same seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from job.compare.outcome import Outcome
from job.compare.runs import Variant, compare
from job.compare.summary import summary
from job.diagnose.diagnose import Diagnosis
from job.spec import JobSpec

BEFORE, AFTER = "as it is", "fixed"
HOLDS = 0.5
"""Share of the predicted rise of a skill that must be measured for a prediction to hold."""


def verify(
    diagnosis: Diagnosis,
    spec: JobSpec,
    fixed: JobSpec,
    folder: Path,
    seeds: int,
    workers: int,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Train both specs and compare; returns JSON values.

    rows: as in job.compare.summary. predictions: for each task that an edit helps, how much higher
    its skill ends in the fixed run, predicted and measured (mean over the seeds), on the
    validation split, or the training split if that one cannot tell it. gates: number of seeds on
    which the fixed run passes all gates. failed: number of fixed runs that end with an error.
    """
    rows = [Variant(BEFORE, spec, folder), Variant(AFTER, fixed, folder)]
    outcomes = compare(rows, seeds, workers, progress)
    last = [o for o in outcomes if o.variant == AFTER]
    passed = sum(o.error is None and all(g.passed for g in o.gates) for o in last)
    of = dict.fromkeys(task for f in diagnosis.findings for task in f.helped)
    predictions = [_prediction(diagnosis, outcomes, task) for task in of]
    return {
        "rows": summary(outcomes),
        "predictions": [each for each in predictions if each["predicted"] > 0],
        "gates": {"passed": passed, "seeds": seeds, "of": len(fixed.gates)},
        "failed": sum(o.error is not None for o in last),
    }


def _prediction(diagnosis: Diagnosis, outcomes: list[Outcome], task: str) -> dict[str, Any]:
    split = "train" if diagnosis.before.measured(task) is None else "validation"
    base = diagnosis.before.skill(task, split)
    predicted = diagnosis.after.skill(task, split) - base
    before, after = (
        {o.seed: _end(o, task, split) for o in outcomes if o.variant == variant}
        for variant in (BEFORE, AFTER)
    )
    rises = [
        now - (before[seed] if math.isfinite(before[seed]) else base)
        for seed, now in after.items()
        if math.isfinite(now)
    ]
    measured = sum(rises) / len(rises) if rises else None
    held = measured is not None and measured >= HOLDS * predicted
    values = {"predicted": predicted, "measured": measured, "seeds": len(rises), "held": held}
    return {"task": task, "split": split, **values}


def _end(outcome: Outcome, task: str, split: str) -> float:
    """The skill at the end of a run; minus infinity if the run failed."""
    if outcome.error is not None or not outcome.epochs:
        return -math.inf
    last = outcome.epochs[-1].tasks[task]
    skill = last.val_skill if split == "validation" else last.skill
    return -math.inf if skill is None else skill
