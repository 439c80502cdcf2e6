"""Where a run is, and what it must remember of where it was."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from job.evaluate import Losses


@dataclass
class Position:
    """Plain values, all of them part of the run's state."""

    step: int = 0
    """Steps taken."""
    epoch: int = 0
    """Epochs finished, evaluation included."""
    batch: int = 0
    """Batches done of the epoch after that."""
    seconds: float = 0.0
    """Training time, evaluation included, over all attempts."""
    epoch_seconds: float = 0.0
    """The part of it that belongs to the epoch under way."""
    first: dict[str, list[float]] = field(default_factory=dict)
    """Losses [K] in original units after epoch 1, by split."""
    score: dict[str, float] = field(default_factory=dict)
    """Validation score after the epoch just finished, by what it scores: a task or `*`."""
    best: dict[str, float] = field(default_factory=dict)
    """The lowest one so far."""
    best_epoch: dict[str, int] = field(default_factory=dict)
    """When that was."""
    fallbacks: int = 0
    """Steps at which the balancer fell back, as far as an alarm has told."""
    losses: dict[str, list[float]] = field(default_factory=dict)
    """By task, in original units, after the last few epochs."""
    signs: dict[str, dict[str, int]] = field(default_factory=dict)
    """By task and kind of alarm, how long its sign has stood (job.alarms)."""

    def remember(
        self, names: Sequence[str], splits: Mapping[str, Losses], watched: Iterable[str | None]
    ) -> None:
        """Take in the losses after the epoch just finished: the first ones, and new minima.

        names: of the K tasks. watched: whose validation loss to keep the minimum of; `*` stands
        for the mean of all tasks' losses relative to epoch 1, None for nothing.
        """
        if self.epoch == 1:
            self.first = {split: losses.original for split, losses in splits.items()}
        now = splits["validation"].original
        relative = [
            loss / first if first else loss
            for loss, first in zip(now, self.first["validation"], strict=True)
        ]
        scores = dict(zip(names, now, strict=True)) | {"*": sum(relative) / len(relative)}
        self.score = {name: scores[name] for name in watched if name is not None}
        for name in self.score:
            if scores[name] < self.best.get(name, math.inf):
                self.best[name], self.best_epoch[name] = scores[name], self.epoch


POSITION = TypeAdapter(Position)
"""From JSON values, in which numbers that are not finite are text."""
