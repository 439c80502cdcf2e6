"""A transformer's encoder over the positions of a sample (Vaswani et al. 2017)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from job import spec
from job.model.dropout import Dropout


def _waves(positions: int, width: int) -> Tensor:
    """Sines and cosines of the position [P, D], of wavelengths 2π to 10 000 · 2π."""
    at = torch.arange(positions)[:, None]
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(1e4) / width))
    waves = torch.zeros(positions, width)
    waves[:, 0::2], waves[:, 1::2] = torch.sin(at * rate), torch.cos(at * rate)[:, : width // 2]
    return waves


def _layer(model: spec.Transformer) -> nn.TransformerEncoderLayer:
    layer = nn.TransformerEncoderLayer(
        model.width,
        model.heads,
        model.feedforward or 4 * model.width,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    for name in ("dropout", "dropout1", "dropout2"):  # torch's would draw a mask on each rank
        setattr(layer, name, Dropout(model.dropout.hidden))
    return layer


class Transformer(nn.Module):
    """Layers of attention with norms before them (Xiong et al. 2020)."""

    waves: Tensor
    keeps_positions = True

    def __init__(self, model: spec.Transformer, features: int, positions: int) -> None:
        super().__init__()
        self.entry = nn.Linear(features, model.width)
        self.register_buffer("waves", _waves(positions, model.width), persistent=False)
        self.layers = nn.ModuleList(_layer(model) for _ in range(model.layers))
        self.norm = nn.LayerNorm(model.width)
        self.width = model.width

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """Features [B, …, F] → z [B, P, D]; real [B, P]: false at padding, which is not seen."""
        x = self.entry(x.flatten(1, -2))
        x = x + self.waves[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=None if real is None else ~real)
        z: Tensor = self.norm(x)
        return z
