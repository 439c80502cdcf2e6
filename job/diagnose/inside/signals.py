"""What passes through each layer: how far its outputs differ between samples, and its gradients.

A signal that a layer does not pass on is lost for all layers behind it; a gradient that does not
come back leaves all layers before it as they are (Glorot and Bengio 2010, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from job.diagnose.inside.leaves import watched
from job.diagnose.step_effect import mean_loss
from job.model.undisturbed import undisturbed
from job.train.evaluate import evenly_spaced
from job.train.trainer import Trainer

SAMPLES = 127
"""Training samples that pass, at most: a prime, so that no other axis is taken for theirs."""


@dataclass
class Layer:
    """A layer on training samples, in evaluation mode."""

    name: str
    kind: str
    """Name of its class."""
    size: float
    """Root mean square of its outputs."""
    signal: float
    """Root mean square, over its outputs, of their standard deviation over the samples."""
    entry: tuple[float, float] | None
    """Size and signal of what it reads; None if that is no tensor of floats with samples."""
    feeds: bool = True
    """False if what it makes are, number for number, a task's outputs."""
    gradients: dict[str, float] = field(default_factory=dict)
    """By task that reaches its weights: root mean square of the gradient over the weights'."""


@dataclass(frozen=True)
class Signals:
    """What passes through the whole network."""

    layers: list[Layer]
    """In the order in which they are called, each once; those that see no samples are left out."""
    outputs: dict[str, tuple[float, float]]
    """By task: size and signal of its outputs, as of a layer."""


def signals(training: Trainer) -> Signals:
    """What passes through the layers of a network as it is now."""
    model, train = training.model, training.data.train
    chosen = evenly_spaced(len(train), SAMPLES)
    seen: dict[str, Layer] = {}
    made_by: dict[str, Tensor] = {}  # kept, so that no other tensor gets its place in memory
    weights: dict[str, list[Tensor]] = {}

    def take(name: str, module: nn.Module, read: Tensor | None, made: Tensor) -> None:
        rows = _rows(made.detach(), len(chosen))
        if name in seen or rows is None:
            return
        came = None if read is None else _rows(read.detach(), len(chosen))
        entry = None if came is None else (_rms(came), _signal(came))
        seen[name] = Layer(name, type(module).__name__, _rms(rows), _signal(rows), entry)
        made_by[name] = made.detach()
        own: list[Tensor] = [p for p in module.parameters() if p.dim() > 1 and p.requires_grad]
        if own:
            weights[name] = own

    with undisturbed(model, training=False), torch.enable_grad(), watched(model, take):
        outputs = model(train.inputs_of(chosen, training.device))
        for loss, out in zip(training.losses, outputs, strict=True):
            mean = mean_loss(loss, out, train, chosen)
            _add_gradients(seen, weights, loss.task.name, mean)
    ends = {y.data_ptr() for y in outputs}
    for name, layer in seen.items():
        layer.feeds = made_by[name].data_ptr() not in ends
    made = {
        loss.task.name: (_rms(y.detach()), _signal(y.detach()))
        for loss, y in zip(training.losses, outputs, strict=True)
    }
    return Signals([*seen.values()], made)


def _add_gradients(
    layers: dict[str, Layer], weights: dict[str, list[Tensor]], task: str, loss: Tensor
) -> None:
    """Add the gradients of a task's loss to the layers that it reaches."""
    every = [p for own in weights.values() for p in own]
    if not loss.requires_grad or not every:
        return
    grads = torch.autograd.grad(loss, every, retain_graph=True, allow_unused=True)
    found = dict(zip(map(id, every), grads, strict=True))
    for name, own in weights.items():
        of_layer = [g.flatten() for p in own if (g := found[id(p)]) is not None]
        if of_layer:
            size = _rms(torch.cat([p.detach().flatten() for p in own]))
            layers[name].gradients[task] = _rms(torch.cat(of_layer)) / max(size, 1e-30)


def _rows(made: Tensor, samples: int) -> Tensor | None:
    """A layer's outputs with an axis of samples first; None if no axis is theirs."""
    if made.dim() > 1 and len(made) % samples == 0:
        return made
    return made.transpose(0, 1) if made.dim() > 2 and made.shape[1] == samples else None


def _signal(rows: Tensor) -> float:
    return rows.double().var(0, correction=0).mean().sqrt().item()


def _rms(values: Tensor) -> float:
    return values.double().square().mean().sqrt().item()
