"""What values a head can give at all, whatever its weights: measured, as code may do anything.

All parameters are moved at random, far, and the outputs watched. Those of a linear map go to both
sides without an end; those behind a sigmoid never leave [0, 1], and those of a softmax sum to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from job.errors import InputError
from job.model.losses import TaskLoss
from job.model.undisturbed import undisturbed
from job.train.evaluate import evenly_spaced
from job.train.trainer import Trainer

SAMPLES = 16
"""Training samples whose outputs are watched."""
DRAWS = 12
"""Random networks for each distance. Outputs of either sign are of one alone by a chance of 2⁻¹²
for each sample and distance, if the samples' were all alike."""
NEAR, FAR = 10.0, 100.0
"""Standard deviations of the moves, in root mean squares of the parameter moved."""
LEAST = 0.1
"""Root mean square that a parameter has at least for this, as biases start at 0."""
GROWS = 0.1
"""Share of the range at NEAR by which an end without a limit lies farther out at FAR."""
CLOSE = 1e-3
"""Distance of a sum from 1 that counts as none."""


@dataclass(frozen=True)
class Range:
    """The outputs of a head under random parameters, before the spec's own activation."""

    low: float
    """Least value; −∞ if there is no limit."""
    high: float
    """Greatest value; ∞ if there is no limit."""
    sums_to_one: bool
    """True if the outputs of each prediction sum to 1."""


def ranges(training: Trainer) -> dict[str, Range]:
    """The range of each task's outputs; of a mean with its deviation, that of the mean."""
    model, train = training.model, training.data.train
    inputs = train.inputs_of(evenly_spaced(len(train), SAMPLES), training.device)
    named = {name: p.detach() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    seen: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in training.losses]
    with undisturbed(model, training=False), torch.no_grad():
        for i in [0] * DRAWS + [1] * DRAWS:
            moved = {n: _moved(p, (NEAR, FAR)[i], generator) for n, p in named.items()}
            try:
                outputs = torch.func.functional_call(model, moved, (inputs,))
            except InputError:  # code of the user's that minds such numbers
                continue
            for each, y in zip(seen, outputs, strict=True):
                each[i].append(y.float().flatten(0, -2).cpu())
    return {
        loss.task.name: _range(loss, near, far)
        for loss, (near, far) in zip(training.losses, seen, strict=True)
    }


def _moved(parameter: Tensor, far: float, generator: torch.Generator) -> Tensor:
    size = max(parameter.square().mean().sqrt().item(), LEAST)
    noise = torch.randn(parameter.shape, generator=generator).to(parameter)
    return parameter + far * size * noise


def _range(loss: TaskLoss, at_near: list[Tensor], at_far: list[Tensor]) -> Range:
    """The range of outputs, each [n, W], by how it grows with the parameters.

    It has no limits if there are no finite outputs to tell them.
    """
    of_means = 2 if loss.task.loss.kind == "gaussian_nll" else 1
    near, far = (
        torch.cat([y[y.isfinite().all(1)][:, ::of_means] for y in each] or [torch.zeros(0, 1)])
        for each in (at_near, at_far)
    )
    if not len(near) or not len(far):
        return Range(-math.inf, math.inf, False)
    low, high = near.min().item(), near.max().item()
    lower, higher = far.min().item(), far.max().item()
    room = GROWS * (high - low)
    one = far.shape[1] > 1 and bool((far.sum(1) - 1).abs().max() < CLOSE)
    return Range(
        min(low, lower) if low - lower <= room else -math.inf,
        max(high, higher) if higher - high <= room else math.inf,
        one,
    )
