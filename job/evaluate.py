"""Losses of a split in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from job.data import Split
from job.model import Jade
from job.ranks import ALONE, Ranks
from job.tasks import TaskLoss

BATCH = 512
"""Samples per forward pass."""


class Losses(NamedTuple):
    """Mean losses of K tasks over a split, on the host."""

    transformed: list[float]
    """[K]."""
    original: list[float]
    """[K], in original units."""
    saturated: list[float]
    """[K], shares of elements (see TaskLoss.saturated)."""


@torch.no_grad()
def evaluate(
    model: Jade,
    losses: Sequence[TaskLoss],
    split: Split,
    device: torch.device,
    most: int,
    tick: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
) -> Losses:
    """Mean losses over at most `most` samples of a split, evenly spaced; fp32, without dropout.

    Each rank evaluates its part of them. `tick` is called after each of its batches.
    """
    total = torch.zeros(3, len(losses), dtype=torch.float64, device=device)
    chosen = evenly_spaced(len(split.features), most)
    mine = ranks.share(len(chosen))
    was_training = model.training
    model.eval()
    for features, targets in batches(split, chosen[mine.first : mine.last], BATCH, losses, device):
        outputs = model(features)
        pairs = [f(o, y) for f, o, y in zip(losses, outputs, targets, strict=True)]
        total[0] += torch.stack([loss for loss, _ in pairs]).double() * len(features)
        total[1] += torch.stack([loss for _, loss in pairs]).double() * len(features)
        flat = [f.saturated(o, y) for f, o, y in zip(losses, outputs, targets, strict=True)]
        total[2] += torch.stack(flat).double() * len(features)
        tick()
    model.train(was_training)
    ranks.sum_([total])
    return Losses(*(total / len(chosen)).tolist())


def evenly_spaced(count: int, most: int) -> Tensor:
    """Indices of at most `most` of `count` samples."""
    used = min(count, most)
    return torch.arange(used) * count // used


def batches(
    split: Split,
    order: Tensor,
    size: int,
    losses: Sequence[TaskLoss],
    device: torch.device,
    ranks: Ranks = ALONE,
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """The samples in an order [n] as batches on the device: features and the tasks' targets.

    Of each batch, this rank's rows.
    """
    for start in range(0, len(order), size):  # order.split would make a batch of no samples
        index = order[start : start + size]
        index = index[ranks.share(len(index)).rows]
        targets = [split.targets[loss.task.name][index] for loss in losses]
        features = split.features[index]
        if device.type == "cuda":  # pinned, so that the copy does not wait
            features, targets = features.pin_memory(), [t.pin_memory() for t in targets]
        yield (
            features.to(device, non_blocking=True),
            [t.to(device, non_blocking=True) for t in targets],
        )
