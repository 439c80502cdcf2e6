"""The network of a run as one function of tensors: encoded inputs in, predictions out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from job.predict import Predictor


class Served(nn.Module):
    """Inputs [B, …, F] in the order of `inputs` → of each task predictions in original units.

    These are [B, W] of a window task and [B, P, W] of a step task with P positions, as
    `TaskLoss.predict` gives them. Its parameters do not train.
    """

    def __init__(self, predictor: Predictor, inputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.losses = predictor.model, nn.ModuleList(predictor.losses)
        self.of_tasks = list(predictor.losses)  # the same, with their type
        self.inputs = list(inputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The predictions of every task, in their order."""
        outputs = self.model(dict(zip(self.inputs, inputs, strict=True)))
        each = zip(self.of_tasks, outputs, strict=True)
        return tuple(loss.predict(y.float()) for loss, y in each)


class Difference(NamedTuple):
    """How far the predictions of an exported network are from the run's own."""

    absolute: float
    """The largest, in original units."""
    relative: float
    """The largest over the largest prediction of its task."""


MOST_RELATIVE = 1e-4
"""The largest difference that float32 explains."""


def difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Difference:
    """Between the predictions of all tasks; infinite if one has another shape, or a NaN."""
    found = Difference(0.0, 0.0)
    for mine, other in zip(ours, theirs, strict=True):
        off = (mine - other).abs().max().item() if mine.shape == other.shape else torch.inf
        off = off if off == off else torch.inf
        size = max(mine.abs().max().item(), torch.finfo(torch.float32).tiny)
        found = Difference(max(found.absolute, off), max(found.relative, off / size))
    return found


def in_words(off: Difference) -> str:
    """How predictions are to the run's own."""
    if not off.absolute:
        return "are the run's own, bit for bit"
    return f"are within {off.absolute:.2g} of the run's own ({off.relative:.1g} of the largest)"
