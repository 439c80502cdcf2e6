"""How far a BatchNorm's outputs depend on which samples share a batch.

In training it normalizes by the batch at hand, in evaluation by averages over batches. Where the
batches are so small that the two differ, the network that is evaluated is not the one that was
trained (Ioffe 2017, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from job.diagnose.inside.leaves import leaves
from job.diagnose.inside.modes import NORMS
from job.model.undisturbed import undisturbed
from job.train.evaluate import evenly_spaced
from job.train.trainer import Trainer

SAMPLES = 256
"""Training samples that pass, at most."""


@dataclass(frozen=True)
class BatchNorms:
    """The BatchNorms of a network that learn statistics."""

    names: list[str]
    apart: dict[str, float]
    """By task: the difference of its outputs between both kinds of statistics (root mean square)
    over their standard deviation by the averages. Empty without a BatchNorm."""
    losses: dict[str, tuple[float, float]]
    """By task: its loss by the statistics of the batches, and by the averages, original units."""


def batch_norms(training: Trainer) -> BatchNorms:
    """Compare the outputs in batches of the run's size with those by averages of all batches.

    The run's own averages lag behind where it has few steps, which has nothing to do with the size
    of a batch.
    """
    model, train = training.model, training.data.train
    found = {
        name: m
        for name, m in leaves(model).items()
        if isinstance(m, NORMS) and m.running_mean is not None
    }
    size = training.spec.train.batch_size
    generator = torch.Generator().manual_seed(0)
    chosen = evenly_spaced(len(train), SAMPLES)
    chosen = chosen[torch.randperm(len(chosen), generator=generator)]
    chosen = chosen[: len(chosen) // size * size]
    if not found or not len(chosen):
        return BatchNorms([], {}, {})
    inputs = train.inputs_of(chosen, training.device)
    apart, losses = {}, {}
    kept: dict[NORMS, float | None] = {}
    with undisturbed(model, training=False), torch.no_grad():
        for layer in found.values():
            layer.train().reset_running_stats()
            layer.momentum, kept[layer] = None, layer.momentum  # a plain mean over the batches
        parts = [
            model({name: x[i : i + size] for name, x in inputs.items()})
            for i in range(0, len(chosen), size)
        ]
        for layer, momentum in kept.items():
            layer.eval()
            layer.momentum = momentum
        rested = model(inputs)
        for k, loss in enumerate(training.losses):
            name, busy = loss.task.name, torch.cat([part[k] for part in parts])
            gap = (busy - rested[k]).float().square().mean().sqrt()
            apart[name] = (gap / rested[k].float().std().clamp(min=1e-30)).item()
            target = train.targets[name][chosen].to(training.device)
            losses[name] = (loss(busy, target)[1].item(), loss(rested[k], target)[1].item())
    return BatchNorms(list(found), apart, losses)
