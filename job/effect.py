"""What single steps do to each task's loss through the trunk, to first order and as measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from job.evaluate import evenly_spaced
from job.train import Training

SAMPLES = 64
"""Of the training split, on which it is measured."""


@dataclass
class Effect:
    """Of the steps looked at, relative to the loss, summed."""

    predicted: float = 0.0
    """To first order: ⟨gradient, displacement⟩ of the trunk's parameters."""
    measured: float = 0.0
    steps: int = 0


@dataclass(frozen=True)
class Before:
    """A network before a step."""

    parameters: dict[str, Tensor]
    trunk: list[str]
    """Names of the trunk's parameters."""
    losses: list[float]
    """[K], in evaluation mode."""
    grads: Sequence[Sequence[Tensor | None]]
    """Of each task's loss at each of the trunk's parameters."""


def remember(training: Training) -> Before:
    """The network as it is; call it before the step."""
    now = {n: p.detach().clone() for n, p in training.stepper.model.named_parameters()}
    trunk = {n: p.requires_grad_() for n, p in now.items() if n.startswith("trunk.")}
    losses = _losses(training, now)
    grads = [
        torch.autograd.grad(loss, list(trunk.values()), retain_graph=True, allow_unused=True)
        if loss.requires_grad
        else [None] * len(trunk)
        for loss in losses
    ]
    values = [loss.item() for loss in losses]
    return Before({n: p.detach() for n, p in now.items()}, list(trunk), values, grads)


@torch.no_grad()
def add(effects: dict[str, Effect], before: Before, training: Training) -> None:
    """Add, by task, what the step since `before` did to the losses through the trunk."""
    now = dict(training.stepper.model.named_parameters())
    moved = [now[name] - before.parameters[name] for name in before.trunk]
    mixed = before.parameters | {name: now[name].detach() for name in before.trunk}
    after = _losses(training, mixed)
    for k, name in enumerate(training.names):
        pairs = zip(before.grads[k], moved, strict=True)
        change = sum(float((g * d).sum()) for g, d in pairs if g is not None)
        if (was := before.losses[k]) > 0:
            effects[name].predicted += change / was
            effects[name].measured += (after[k].item() - was) / was
            effects[name].steps += 1


def _losses(training: Training, parameters: dict[str, Tensor]) -> list[Tensor]:
    """The tasks' losses [] of the network with these parameters, in evaluation mode."""
    model, train, device = training.stepper.model, training.data.train, training.device
    chosen = evenly_spaced(len(train.features), SAMPLES)
    was_training = model.training
    model.eval()
    # cuDNN's LSTM has no backward in evaluation mode.
    with torch.backends.cudnn.flags(enabled=False):
        features = train.features[chosen].to(device)
        outputs = torch.func.functional_call(model, parameters, (features,))
    model.train(was_training)
    return [
        loss(output, train.targets[name][chosen].to(device))[0]
        for name, loss, output in zip(training.names, training.losses, outputs, strict=True)
    ]
