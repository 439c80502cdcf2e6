"""The effect of single steps on each task's loss through the trunk: predicted and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from job.data.dataset import Split
from job.model.labels import shares
from job.model.losses import TaskLoss
from job.train.evaluate import evenly_spaced
from job.train.trainer import Trainer

SAMPLES = 64
"""Training samples on which the effect is measured."""


@dataclass
class Effect:
    """Changes of a loss relative to it, summed over the measured steps."""

    predicted: float = 0.0
    """To first order: ⟨gradient, displacement⟩ of the trunk's parameters."""
    measured: float = 0.0
    """By evaluating the loss with the trunk after the step and the heads before it."""
    steps: int = 0


@dataclass(frozen=True)
class Before:
    """The network before a step."""

    parameters: dict[str, Tensor]
    trunk: list[str]
    """Names of the parameters that the tasks share, up to z if the network has one."""
    losses: list[float]
    """[K], in evaluation mode."""
    grads: Sequence[Sequence[Tensor | None]]
    """Gradients of each task's loss at each of the trunk's parameters."""


def network_before(training: Trainer) -> Before:
    """The network as it is now; to be called before the step."""
    now = {n: p.detach().clone() for n, p in training.stepper.model.named_parameters()}
    trunk = {n: now[n].requires_grad_() for n in training.known.below}
    losses = _losses(training, now)
    grads = [
        torch.autograd.grad(loss, list(trunk.values()), retain_graph=True, allow_unused=True)
        if trunk and loss.requires_grad
        else [None] * len(trunk)
        for loss in losses
    ]
    values = [loss.item() for loss in losses]
    return Before({n: p.detach() for n, p in now.items()}, list(trunk), values, grads)


@torch.no_grad()
def add_effects(effects: dict[str, Effect], before: Before, training: Trainer) -> None:
    """Add the effect of the step since `before` to the tasks' effects."""
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


def _losses(training: Trainer, parameters: dict[str, Tensor]) -> list[Tensor]:
    """The tasks' losses [] of the network with these parameters, in evaluation mode."""
    model, train = training.stepper.model, training.data.train
    chosen = evenly_spaced(len(train), SAMPLES)
    was_training = model.training
    model.eval()
    # cuDNN's LSTM has no backward in evaluation mode.
    with torch.backends.cudnn.flags(enabled=False):
        inputs = train.inputs_of(chosen, training.device)
        outputs = torch.func.functional_call(model, parameters, (inputs,))
    model.train(was_training)
    return [
        mean_loss(loss, output, train, chosen)
        for loss, output in zip(training.losses, outputs, strict=True)
    ]


def mean_loss(loss: TaskLoss, output: Tensor, split: Split, chosen: Tensor) -> Tensor:
    """The loss [] of a task's output for some of a split's samples."""
    target = split.targets[loss.task.name][chosen].to(output.device)
    of_samples = split.weights_of(loss.task.name, chosen)
    weights = loss.weights(target, None if of_samples is None else of_samples.to(output.device))
    return loss(output, target, None if weights is None else shares(weights))[0]  # type: ignore[no-any-return]  # a Module's call is of type Any
