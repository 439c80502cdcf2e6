"""An evaluation as a page: the run's report, with what it shows on this data."""

from __future__ import annotations

from typing import Any

from job.evaluate.evaluation import Evaluation, plots, record
from job.evaluate.lacking import in_words, in_words_of_slices
from job.predict import Predictor
from job.report.gather import gather
from job.report.page import NUMBERS, page


def evaluation_page(evaluation: Evaluation, predictor: Predictor) -> str:
    """The page; raises Missing, Damaged, StoreError."""
    origin = predictor.origin
    run: dict[str, Any] = gather(origin.store, origin.run, NUMBERS)
    drawn = plots(evaluation, predictor.spec.task_names)
    evaluated = record(evaluation, predictor) | {
        "notes": list(in_words(evaluation.whole.test)),
        "notes_of_slices": list(in_words_of_slices(evaluation.slices)),
    }
    return page([{**run, "evaluated": evaluated, "predictions": [*drawn, *run["predictions"]]}])
