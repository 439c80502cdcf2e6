"""When a training is over, and whether scores decided that."""

from __future__ import annotations

from job.spec import JobSpec, Plateau
from job.train.state import TrainState


def watched_scores(spec: JobSpec) -> set[str]:
    """What decides on the best checkpoint, the end and the rate, as scores are named."""
    train = spec.train
    on_plateau = train.schedule.task if isinstance(train.schedule, Plateau) else None
    stop = train.early_stop.watched if train.early_stop else None
    return {name for name in (spec.checkpoint.watched, stop, on_plateau) if name is not None}


def is_over(spec: JobSpec, at: TrainState) -> bool:
    """True if no step is left to take: the last epoch is over, or early stop ends the run."""
    stop = spec.train.early_stop
    stale = stop is not None and at.stale(stop.watched) >= stop.patience
    return stale or _is_unscored(spec, at) or at.epoch >= spec.train.epochs


def undecidable(spec: JobSpec, at: TrainState) -> str | None:
    """Why the end rests on a validation score that is not finite; None if it does not."""
    stop, best_of = spec.train.early_stop, spec.checkpoint.watched
    if stop is not None and _is_unscored(spec, at):
        return f"early stop ended the run, because {_without_score(stop.watched)} any more"
    if best_of is not None and at.epoch > 0 and best_of not in at.best:
        return f"checkpoint.best_of has kept nothing: {_without_score(best_of)} after any epoch"
    return None


def _is_unscored(spec: JobSpec, at: TrainState) -> bool:
    """True if early stop ends the run because it has no finite score to judge by."""
    stop = spec.train.early_stop
    return stop is not None and at.unscored.get(stop.watched, 0) >= stop.patience


def _without_score(name: str) -> str:
    """That what early stop or best_of reads is not there, in words."""
    task, _, metric = name.partition(".")
    if metric:
        return f"the validation {metric} of {task} has no value"
    of_loss = "the mean validation loss" if name == "*" else f"the validation loss of {task}"
    return f"{of_loss} is not finite"
