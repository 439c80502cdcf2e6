"""A multilayer perceptron over a whole sample."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from job import spec
from job.model.dropout import Dropout


class Mlp(nn.Module):
    """Linear maps with ReLU and dropout, of all positions and features of a sample at once."""

    keeps_positions = False

    def __init__(self, model: spec.Mlp, features: int) -> None:
        super().__init__()
        widths = [features, *model.hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), Dropout(model.dropout.hidden)]
        self.layers = nn.Sequential(*layers)
        self.width = widths[-1]

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """Features [B, …, F], 0 at padding → z [B, 1, D]."""
        z: Tensor = self.layers(x.flatten(1)).unsqueeze(1)
        return z
