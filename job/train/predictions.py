"""What metrics and plots need of all predictions for a split, gathered batch after batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from job.distributed.ranks import Ranks
from job.model.losses import TaskLoss
from job.model.metrics import Values, measure, summarize, summary_width
from job.model.plots import Plots, plot, with_curves
from job.spec import Task

Measured = tuple[list[Values], list[Plots]]
"""[K] metrics and [K] plots; no plots if they were not asked for."""


class Predictions:
    """Of K tasks for n samples. Each rank puts those of its rows.

    They are kept in whole, as ranks and batches must not change a metric. For metrics that takes at
    most twice the memory of the targets; of quantiles, as many times as there are levels.
    """

    def __init__(
        self,
        losses: Sequence[TaskLoss],
        targets: Sequence[Tensor],
        device: torch.device,
        plots: bool = False,
    ) -> None:
        """targets: [K] of [n, …]. plots: whether to make them too."""
        self.losses, self.targets, self.plots = losses, targets, plots
        tasks = [loss.task for loss in losses]
        self.curved = [
            with_curves(task, y) if plots else [] for task, y in zip(tasks, targets, strict=True)
        ]
        """[K] classes whose probabilities are kept, for their curves."""
        self.kept = [plots or bool(task.measured) for task in tasks]
        self.summaries = [
            torch.zeros(_shape(task, y, len(curved)) if kept else 0, device=device)
            for task, y, curved, kept in zip(tasks, targets, self.curved, self.kept, strict=True)
        ]
        """[K] of [n, …, P] float32; empty for a task of which nothing is wanted."""

    def put(self, k: int, rows: slice, outputs: Tensor) -> None:
        """Take in what the head of task k gives for some rows."""
        loss = self.losses[k]
        if self.kept[k]:
            predicted = loss.predict(outputs.float())
            self.summaries[k][rows] = summarize(loss.task, predicted, self.curved[k])

    def measure(self, ranks: Ranks) -> Measured:
        """Metrics and plots, the same on every rank; to be called once.

        One rank computes them: GPUs that add in any order differ in the last bits, and early stop
        would end one of them alone.
        """
        ranks.sum_(self.summaries)
        found = ranks.broadcast(self._measure() if ranks.rank == 0 else None)
        assert found is not None
        return found

    def _measure(self) -> Measured:
        metrics, plots = [], []
        each = zip(self.losses, self.summaries, self.targets, self.curved, strict=True)
        for loss, mine, y, curved in each:
            metrics.append(measure(loss.task, mine, y.to(mine.device)))
            if self.plots:
                plots.append(plot(loss.task, mine, y, curved))
        return metrics, plots


def _shape(task: Task, target: Tensor, curved: int) -> tuple[int, ...]:
    """Of a summary, with the probabilities of `curved` classes."""
    lead = target.shape if task.loss.of_classes else target.shape[:-1]
    return (*lead, summary_width(task) + curved)
