"""Whether a diagnosis' predictions hold: the spec and its fixed twin, trained side by side."""

from __future__ import annotations

import math
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
    """JSON values: `rows`, as job.summary has them, and `predictions` of each task that was helped.

    predicted, measured: share by which the task's loss, original units, ends lower in the fixed
    run, on the split that the finding is of; mean over the seeds. gates: of the fixed run, on how
    many seeds it passed all. failed: fixed runs that did not come to their end.
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
    told = {"predicted": predicted, "measured": measured, "seeds": len(falls), "held": held}
    return {"task": task, "split": split, **told}


def _end(outcome: Outcome, task: str, split: str) -> float:
    """The loss at the end; infinite for a run that did not come to it."""
    if outcome.error is not None or not outcome.epochs:
        return math.inf
    last = outcome.epochs[-1].tasks[task]
    return last.val_loss_original if split == "validation" else last.train_loss_original


def _fall(was: float, now: float) -> float:
    """1 − now / was; whole where the run as it was did not come to its end."""
    return 1 - now / was if was > 0 else 0.0
