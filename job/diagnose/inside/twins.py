"""Layers whose units are all one: they start with the same weights, and get the same gradient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from job.diagnose.inside.leaves import leaves
from job.model.network import Network

ALIKE = 1e-5
"""Difference of two units' weights, over the size of a weight, within which they are one."""
LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


@dataclass(frozen=True)
class Twins:
    """A layer that trains, all of whose units have the same weights."""

    name: str
    units: int
    """At least 2."""
    zero: bool
    """True if all those weights are 0."""


def twin_layers(model: Network) -> list[Twins]:
    """The layers of which that is true now."""
    found = []
    for name, layer in leaves(model).items():
        if isinstance(layer, LAYERS) and layer.weight.requires_grad and len(layer.weight) > 1:
            rows = layer.weight.detach().flatten(1)
            size = rows.square().mean().sqrt()
            if bool((rows - rows[0]).abs().max() <= ALIKE * size):
                found.append(Twins(name, len(rows), bool(size == 0)))
    return found
