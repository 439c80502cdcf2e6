"""The position of a run, and the values of earlier epochs that it still needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from pydantic import TypeAdapter

from job.events import FinalTestTask, Worth
from job.spec.tasks import METRICS
from job.spec.training import watched
from job.train.evaluate import Losses


@dataclass
class TrainState:
    """Position and history in plain values; all of them are saved in checkpoints."""

    step: int = 0
    """Steps taken."""
    epoch: int = 0
    """Epochs finished, evaluation included."""
    batch: int = 0
    """Batches taken of the epoch under way."""
    seconds: float = 0.0
    """Training time, evaluation included, over all attempts."""
    epoch_seconds: float = 0.0
    """Time spent on the epoch under way."""
    first: dict[str, list[float]] = field(default_factory=dict)
    """Losses [K] in original units after epoch 1, by split."""
    score: dict[str, float] = field(default_factory=dict)
    """Validation score after the epoch just finished, by what is watched."""
    best: dict[str, float] = field(default_factory=dict)
    """Lowest score so far."""
    best_epoch: dict[str, int] = field(default_factory=dict)
    """Epoch of the lowest score."""
    unscored: dict[str, int] = field(default_factory=dict)
    """Epochs after the best one whose score is not finite."""
    fallbacks: int = 0
    """Steps at which the balancer fell back and that an alarm has reported."""
    unforeseen: list[str] = field(default_factory=list)
    """Tasks whose outputs came to depend on more parameters, which an alarm has reported."""
    worth: dict[str, Worth] = field(default_factory=dict)
    """What each task's predictions are worth after the epoch just finished."""
    test: dict[str, FinalTestTask] = field(default_factory=dict)
    """What the test split has shown after the last epoch, by task; empty before, or without one."""
    falls: int = 0
    """Times that the learning rate has fallen on a plateau."""
    fell: int = 0
    """Epoch after which it fell last."""
    losses: dict[str, list[float]] = field(default_factory=dict)
    """Training losses after the last few epochs, by task, in original units."""
    signs: dict[str, dict[str, int]] = field(default_factory=dict)
    """Count of epochs with an alarm's sign, by task and kind (job.train.alarms.of_training)."""

    def remember(
        self,
        names: Sequence[str],
        splits: Mapping[str, Losses],
        wanted: Iterable[str],
        own: Mapping[str, bool] = MappingProxyType({}),
    ) -> None:
        """Record the first losses, and the scores and minima after the epoch just finished.

        names: the K tasks. wanted: what is watched: a task's validation loss or `<task>.<metric>`,
        whose sign is changed if higher is better; `*` is the mean of all tasks' losses relative to
        epoch 1. own: by `<task>.<metric>`, whether higher is better, of metrics of
        one's own.
        """
        if self.epoch == 1:
            self.first = {split: losses.original for split, losses in splits.items()}
        now = splits["validation"].original
        relative = [
            loss / first if first else loss
            for loss, first in zip(now, self.first["validation"], strict=True)
        ]
        if not all(map(math.isfinite, self.first["validation"])):  # finite / inf would be 0: best
            relative = [math.nan]
        scores = dict(zip(names, now, strict=True)) | {"*": sum(relative) / len(relative)}
        for name, metrics in zip(names, splits["validation"].metrics, strict=False):
            for metric, value in metrics.items():
                key = watched(name, metric)
                higher = own[key] if key in own else METRICS[metric].higher_is_better
                scores[key] = math.nan if value is None else -value if higher else value
        self.score = {name: scores[name] for name in wanted}
        for name, score in self.score.items():
            if not math.isfinite(score):
                self.unscored[name] = self.unscored.get(name, 0) + 1
            elif score < self.best.get(name, math.inf):
                self.best[name], self.best_epoch[name] = score, self.epoch
                self.unscored[name] = 0

    def stale(self, name: str) -> int:
        """Epochs after the best one whose score is finite, and no better."""
        return self.epoch - self.best_epoch.get(name, 0) - self.unscored.get(name, 0)


POSITION = TypeAdapter(TrainState)
"""Reads it from JSON values, in which numbers that are not finite are text."""
