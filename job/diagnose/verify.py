"""Checks a diagnosis' predictions: trains the spec and the fixed spec on the same seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from job.compare.outcome import Outcome
from job.compare.runs import Variant, compare
from job.compare.summary import summary
from job.diagnose.case import gain
from job.diagnose.diagnose import Diagnosis
from job.spec import JobSpec

BEFORE, AFTER = "as it is", "fixed"
HOLDS = 0.5
"""Share of the predicted fall of a loss that must be measured for a prediction to hold."""


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

    rows: as in job.compare.summary. predictions: for each task that an edit helps, the share by
    which its loss in original units ends lower in the fixed run, predicted and measured (mean over
    the seeds), on the finding's split. gates: number of seeds on which the fixed run passes all
    gates. failed: number of fixed runs that end with an error.
    """
    rows = [Variant(BEFORE, spec, folder), Variant(AFTER, fixed, folder)]
    outcomes = compare(rows, seeds, workers, progress)
    last = [o for o in outcomes if o.variant == AFTER]
    passed = sum(o.error is None and all(g.passed for g in o.gates) for o in last)
    of = dict.fromkeys((task, f.split) for f in diagnosis.findings for task in f.helped)
    predictions = [_prediction(diagnosis, outcomes, task, split) for task, split in of]
    return {
        "rows": summary(outcomes),
        "predictions": [each for each in predictions if each["predicted"] > 0],
        "gates": {"passed": passed, "seeds": seeds, "of": len(fixed.gates)},
        "failed": sum(o.error is not None for o in last),
    }


def _prediction(
    diagnosis: Diagnosis, outcomes: list[Outcome], task: str, split: str
) -> dict[str, Any]:
    predicted = gain(diagnosis.before, diagnosis.after, task, split)
    before, after = (
        {o.seed: _end(o, task, split) for o in outcomes if o.variant == variant}
        for variant in (BEFORE, AFTER)
    )
    falls = [_fall(before[seed], now) for seed, now in after.items() if math.isfinite(now)]
    measured = sum(falls) / len(falls) if falls else None
    held = measured is not None and measured >= HOLDS * predicted
    values = {"predicted": predicted, "measured": measured, "seeds": len(falls), "held": held}
    return {"task": task, "split": split, **values}


def _end(outcome: Outcome, task: str, split: str) -> float:
    """The loss at the end of a run; infinite if the run failed."""
    if outcome.error is not None or not outcome.epochs:
        return math.inf
    last = outcome.epochs[-1].tasks[task]
    return last.val_loss_original if split == "validation" else last.train_loss_original


def _fall(was: float, now: float) -> float:
    """1 − now / was; 1 if the run without edits failed."""
    return 1 - now / was if was > 0 else 0.0
