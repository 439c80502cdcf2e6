"""Evaluation: losses and metrics of a split, without dropout."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from job.data.dataset import Split
from job.data.shards.read_ahead import read_ahead
from job.distributed.ranks import ALONE, Ranks
from job.model.labels import labelled
from job.model.losses import TaskLoss
from job.model.metrics import Values
from job.model.network import Network
from job.model.plots import Plots
from job.spec import JobSpec
from job.train.predictions import Predictions

BATCH = 512
"""Samples per forward pass."""


class Batch(NamedTuple):
    """Some samples of a split, on the device."""

    inputs: dict[str, Tensor]
    """[B, …] by name."""
    targets: list[Tensor]
    """By task, [B, …]."""
    weights: list[Tensor | None]
    """By task, [B]; None if its samples have no weights."""


class Losses(NamedTuple):
    """Losses of K tasks over n samples of a split, on the host; means over labels unless stated.

    Where elements weigh differently, the losses are weighted means.
    """

    transformed: list[float]
    """[K]."""
    original: list[float]
    """[K], in original units."""
    saturated: list[float]
    """[K], shares of elements with a saturated loss (see TaskLoss.saturated)."""
    by_sample: Tensor
    """[K, n] float64, what each sample gives to the mean over the samples, in original units; its
    own loss if all elements weigh the same."""
    metrics: Sequence[Values] = ()
    """[K]; empty if they were not asked for."""
    plots: Sequence[Plots] = ()
    """[K]; empty if they were not asked for."""


@torch.no_grad()
def evaluate(
    model: Network,
    losses: Sequence[TaskLoss],
    split: Split,
    device: torch.device,
    chosen: Tensor | None = None,
    tick: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
    metrics: bool = False,
    plots: bool = False,
) -> Losses:
    """Losses over the chosen samples of a split [n], or all of it, in fp32 without dropout.

    Each rank evaluates its part of the samples, and calls `tick` after each of its batches.
    metrics, plots: whether to measure metrics too, or those and what plots show.
    """
    if chosen is None:
        chosen = torch.arange(len(split))
    uneven = [k for k, loss in enumerate(losses) if loss.uneven]
    each = torch.zeros(5 if uneven else 3, len(losses), len(chosen), dtype=torch.float64)
    each = each.to(device)
    mine = ranks.share(len(chosen))
    kept = None
    if metrics or plots:
        targets = [split.targets[loss.task.name][chosen] for loss in losses]
        kept = Predictions(losses, targets, device, plots)
    was_training = model.training
    model.eval()
    at = mine.first
    for batch in batches(split, chosen[mine.first : mine.last], BATCH, losses, device):
        rows = slice(at, at := at + len(batch.targets[0]))
        each_task = zip(losses, model(batch.inputs), batch.targets, batch.weights, strict=True)
        for k, (f, outputs, y, of_samples) in enumerate(each_task):
            weights = f.weights(y, of_samples)
            each[0, k, rows], each[1, k, rows] = f.by_sample(outputs, y, weights)
            each[2, k, rows] = f.saturated(outputs, y)
            if weights is not None:
                each[3, k, rows] = weights.reshape(len(y), -1).sum(1).double()
                each[4, k, rows] = labelled(y).reshape(len(y), -1).sum(1).double()
            if kept is not None:
                kept.put(k, rows, outputs)
        tick()
    model.train(was_training)
    ranks.sum_([each])
    for k in uneven:  # what each sample gives to the means: NaN without any label
        sums, weights, labels = each[:2, k], each[3, k], each[4, k]
        each[:2, k] = sums * (len(chosen) / weights.sum())
        each[2, k] *= labels * (len(chosen) / labels.sum())
    transformed, original, saturated = each[:3].mean(2).tolist()
    measured = kept.measure(ranks) if kept is not None else ()
    return Losses(transformed, original, saturated, each[1].cpu(), *measured)


def evenly_spaced(count: int, most: int) -> Tensor:
    """Indices of at most `most` of `count` samples."""
    used = min(count, most)
    return torch.arange(used) * count // used


def train_samples(spec: JobSpec, count: int) -> Tensor:
    """Indices [n], ascending, of the `count` training samples that an epoch evaluates.

    By default drawn, as samples that come in turns (a sensor each, a class each) may have the very
    period at which evenly spaced ones lie. Seed and count decide, so every epoch has the same.
    """
    used = spec.train.evaluated(count)
    if spec.train.evaluate is not None:
        return evenly_spaced(count, used)
    bounds = torch.arange(used + 1) * count // used
    draw = torch.Generator().manual_seed(spec.seed)
    within = torch.rand(used, generator=draw, dtype=torch.float64) * bounds.diff()
    return bounds[:-1] + within.long()


def batches(
    split: Split,
    order: Tensor,
    size: int,
    losses: Sequence[TaskLoss],
    device: torch.device,
    ranks: Ranks = ALONE,
) -> Generator[Batch, None, None]:
    """Batches on the device, of each the rows of this rank.

    order [n]: indices of the samples, batch after batch. What is on disk is read by a thread, some
    batches ahead.
    """
    on_gpu = device.type == "cuda"

    def pinned(rows: Tensor) -> Tensor:
        return rows.pin_memory() if on_gpu else rows  # so that the copy does not wait

    def moved(rows: Tensor) -> Tensor:
        return rows.to(device, non_blocking=True)

    parts = []
    for start in range(0, len(order), size):  # order.split would make a batch of no samples
        index = order[start : start + size]
        parts.append(index[ranks.share(len(index)).rows])

    def read() -> Generator[Batch, None, None]:
        names = [loss.task.name for loss in losses]
        for index, following in zip_longest(parts, parts[1:]):
            if following is not None:
                for rows in split.on_disk.values():
                    rows.will_need(following)
            weights = [split.weights_of(name, index) for name in names]
            yield Batch(
                {name: pinned(x) for name, x in split.inputs_of(index).items()},
                [pinned(split.targets[name][index]) for name in names],
                [None if each is None else pinned(each) for each in weights],
            )

    with closing(read_ahead(read(), device) if split.on_disk else read()) as ready:
        for inputs, targets, weights in ready:
            yield Batch(
                {name: moved(x) for name, x in inputs.items()},
                [moved(y) for y in targets],
                [None if each is None else moved(each) for each in weights],
            )
