"""What a network does otherwise in evaluation than in training, and what it should but does not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from job.diagnose.inside.leaves import leaves, watched
from job.model.dropout import Dropout
from job.model.network import Inputs, Network
from job.model.undisturbed import undisturbed
from job.train.evaluate import evenly_spaced
from job.train.trainer import Trainer

SAMPLES = 64
"""Training samples that pass."""
DROPOUTS = (nn.modules.dropout._DropoutNd, Dropout)
NORMS = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class Modes:
    """How a network behaves in both modes, at the start."""

    still: list[str]
    """Layers that are in evaluation mode while the network trains, and act otherwise there."""
    random: str | None
    """The first layer whose output is another in a second evaluation; None if none is."""
    spread: dict[str, float]
    """By task whose outputs differ between two evaluations: the difference over their standard
    deviation."""


def modes(training: Trainer) -> Modes:
    """Compare the modes of a network."""
    model, train = training.model, training.data.train
    inputs = train.inputs_of(evenly_spaced(len(train), SAMPLES), training.device)
    with undisturbed(model, training=False), torch.no_grad():
        first, second = _evaluated(training, inputs, 1), _evaluated(training, inputs, 2)
        model.train()
        model(inputs)  # which may set a mode
        rests = {id(m) for part in _frozen(model) for m in part.modules()}
        still = [n for n, m in leaves(model).items() if id(m) not in rests and _is_still(m)]
    names = [name for name, _ in first[0]]
    pairs = zip(names, first[0], second[0], strict=False)
    random = next((n for n, (_, a), (_, b) in pairs if not torch.equal(a, b)), None)
    spread = {
        task: ((a - b).square().mean().sqrt() / a.std().clamp(min=1e-30)).item()
        for task, a, b in zip(training.names, first[1], second[1], strict=True)
        if not torch.equal(a, b)
    }
    return Modes(still, random if spread else None, spread)


def _evaluated(
    training: Trainer, inputs: Inputs, seed: int
) -> tuple[list[tuple[str, Tensor]], list[Tensor]]:
    """What the layers make of a batch in evaluation mode, and the outputs."""
    made: list[tuple[str, Tensor]] = []

    def take(name: str, module: nn.Module, read: Tensor | None, out: Tensor) -> None:
        made.append((name, out.clone()))

    torch.manual_seed(seed)
    with watched(training.model, take):
        outputs = training.model(inputs)
    return made, [y.float() for y in outputs]


def _frozen(model: Network) -> list[nn.Module]:
    """The parts that are frozen as a whole, and so rest (job.model.start.frozen.keep_still)."""
    parts = [module for module in model.modules() if module is not model]
    owned = [(module, [*module.parameters()]) for module in parts]
    return [m for m, own in owned if own and not any(p.requires_grad for p in own)]


def _is_still(layer: nn.Module) -> bool:
    """True for a dropout that drops nothing, or a BatchNorm that has never seen a batch.

    One with statistics of its own was trained elsewhere, and may well rest.
    """
    if layer.training:
        return False
    if isinstance(layer, DROPOUTS):
        return layer.p > 0
    if not isinstance(layer, NORMS) or layer.running_mean is None or layer.running_var is None:
        return False
    return bool((layer.running_mean == 0).all() and (layer.running_var == 1).all())
