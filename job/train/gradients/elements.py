"""What the elements of a batch's targets weigh, over all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from job.distributed.ranks import Ranks, Share
from job.model.losses import TaskLoss, Weighed
from job.model.network import Inputs


class Elements(NamedTuple):
    """What the elements of a batch's targets weigh, by task. The batch is that of all ranks."""

    shared: list[Tensor | None]
    """In the target's shape, each element's share in the batch's mean; None: all the same."""
    known: list[Tensor | None]
    """Bool, the elements whose share is above 0; None: all."""
    of_rank: Tensor | float | None
    """[K], or one number: what a mean over this rank's elements counts in that of the batch. 1 for
    a sum of shares; None if there is one rank."""
    labelled: Tensor | None
    """See Measured."""
    present: Tensor | None
    """[K], whether the batch has an element that counts; None if all elements do."""


class Part(NamedTuple):
    """Rows of a batch: this rank's, of all of it or of one micro-batch."""

    inputs: Inputs
    targets: Sequence[Tensor]
    share: Share | None = None
    """Which part of the batch or micro-batch these are; None if there is one process."""
    of_samples: Sequence[Tensor | None] | None = None
    """Per task, the samples' weights [B], if they have some."""

    @property
    def size(self) -> int:
        """Rows of all ranks."""
        return len(self.targets[0]) if self.share is None else self.share.of


def weigh_elements(
    losses: Sequence[TaskLoss],
    targets: Sequence[Tensor],
    of_samples: Sequence[Tensor | None] | None,
    share: Share | None,
    ranks: Ranks,
) -> Elements:
    """What the elements of this rank's targets weigh; of_samples: the samples' weights [B]."""
    return weigh_parts(losses, [Part({}, targets, share, of_samples)], ranks)[0]


def weigh_parts(losses: Sequence[TaskLoss], parts: Sequence[Part], ranks: Ranks) -> list[Elements]:
    """What the elements of a batch's parts weigh: each part's share of the means of all of it."""
    of_parts = _weights_of_means(parts)
    if not any(loss.uneven for loss in losses):
        every: list[Tensor | None] = [None] * len(losses)
        return [Elements(every, every, of, None, None) for of in of_parts]
    weighed = [_weighed(losses, part) for part in parts]
    one = parts[0].targets[0].new_ones((), dtype=torch.float32)
    partial = any(loss.partial for loss in losses)
    totals, counts = _totals(one, weighed, partial)
    ranks.sum_([totals] if counts is None else [totals, counts])
    present = totals > 0
    divisors = torch.where(present, totals, one).unbind()
    found = []
    for each, of in zip(weighed, of_parts, strict=True):
        rows = zip(each, divisors, strict=True)
        shared = [None if w is None else w.weights / d for w, d in rows]
        own = None if of is None else [of if s is None else 1.0 for s in shared]
        found.append(
            Elements(
                shared,
                [None if w is None else w.known for w in each],
                None
                if own is None
                else torch.stack([torch.full_like(one, value) for value in own]),
                counts,
                present if partial else None,
            )
        )
    return found


def _weights_of_means(parts: Sequence[Part]) -> list[float | None]:
    """What each part's mean over this rank's rows counts in the mean over the whole batch."""
    of_ranks = [None if part.share is None else part.share.weight for part in parts]
    if len(parts) == 1:
        return list(of_ranks)
    total = sum(part.size for part in parts)
    return [
        (1.0 if of is None else of) * part.size / total
        for of, part in zip(of_ranks, parts, strict=True)
    ]


def _weighed(losses: Sequence[TaskLoss], part: Part) -> list[Weighed | None]:
    of_samples = part.of_samples or [None] * len(losses)
    rows = zip(losses, part.targets, of_samples, strict=True)
    each = [loss.weighed(y, of) for loss, y, of in rows]
    if part.share is not None and part.share.weight == 0:  # its one row is another rank's
        return [None if w is None else Weighed(*map(torch.zeros_like, w)) for w in each]
    return each


def _totals(
    one: Tensor, parts: Sequence[Sequence[Weighed | None]], counting: bool
) -> tuple[Tensor, Tensor | None]:
    """Sums of the weights [K] over all parts, and of the elements that count, if `counting`.

    1 for a task all of whose elements weigh the same.
    """
    totals, counts = [], []
    for of_task in zip(*parts, strict=True):
        each = [w for w in of_task if w is not None]
        same = all(w.weights is w.known for w in each)
        totals.append(_sum([w.weights for w in each]) if each else one)
        if counting:
            counts.append(totals[-1] if same else _sum([w.known for w in each]))
    return torch.stack(totals).to(one), torch.stack(counts).to(one) if counting else None


def _sum(each: Sequence[Tensor]) -> Tensor:
    first, *rest = [x.sum() for x in each]
    return sum(rest, first)
