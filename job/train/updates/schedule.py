"""Schedules of the learning rate."""

from __future__ import annotations

import math

from job import spec
from job.train.state import TrainState


def schedule_factor(
    train: spec.Train, step: int, steps: int, per_epoch: int = 1, falls: int = 0
) -> float:
    """The learning rate relative to its base, at a step (from 0) of `steps`.

    per_epoch: steps of an epoch. falls: times that the rate has fallen on a plateau. Nothing else
    of a run matters, so only these falls have a state.
    """
    warmed = min(1.0, (step + 1) / train.warmup) if train.warmup else 1.0
    done = max(0, step - train.warmup) / max(1, steps - train.warmup)
    return warmed * _scheduled(train.schedule, done, step // per_epoch, falls)


def _scheduled(schedule: spec.Schedule, done: float, epoch: int, falls: int) -> float:
    """The factor when a share of the steps after the warm-up is done, in an epoch from 0."""
    match schedule:
        case "cosine":  # Loshchilov and Hutter 2017, equation 5, without restarts
            return (1 + math.cos(math.pi * done)) / 2
        case "one_cycle":  # Smith and Topin 2018, cosine form
            warm = 0.3
            if done < warm:
                return 0.04 + 0.96 * (1 - math.cos(math.pi * done / warm)) / 2
            return (1 + math.cos(math.pi * (done - warm) / (1 - warm))) / 2
        case spec.Steps():
            return schedule.factor ** (epoch // schedule.every)
        case spec.Plateau():
            return max(schedule.least, schedule.factor**falls)
        case _:
            return 1.0


def steps_per_epoch(train: spec.Train, samples: int) -> int:
    """Steps of an epoch over so many training samples."""
    parts = train.accumulate.steps if train.accumulate else 1
    return math.ceil(samples / (train.batch_size * parts))


def note_plateau(schedule: spec.Schedule, at: TrainState) -> None:
    """Count a fall of the learning rate, if the epoch just finished is one too many."""
    if not isinstance(schedule, spec.Plateau):
        return
    best = at.best_epoch.get(schedule.task, 0)
    if at.epoch - max(best, at.fell) >= schedule.patience:
        at.falls, at.fell = at.falls + 1, at.epoch
