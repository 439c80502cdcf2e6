"""Dilated convolutions over the positions of a sample (Bai, Kolter and Koltun 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from job import spec
from job.model.dropout import Dropout


class _Block(nn.Module):
    """Norm, ReLU, a dilated convolution and dropout, added to what comes in."""

    def __init__(self, model: spec.Conv1d, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(model.width)  # per position: it sees nothing of the others
        self.convolution = nn.Conv1d(model.width, model.width, model.kernel, dilation=dilation)
        self.dropout = Dropout(model.dropout.hidden)
        reach = (model.kernel - 1) * dilation
        self.padding = (reach, 0) if model.causal else (reach // 2, reach - reach // 2)

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        """[B, P, D] → [B, P, D]; what is not `real` [B, P] counts as 0, like what is beyond."""
        ready = torch.relu(self.norm(x))
        ready = ready if real is None else torch.where(real.unsqueeze(-1), ready, 0.0)
        seen = functional.pad(ready.mT, self.padding)
        added: Tensor = self.dropout(self.convolution(seen).mT)
        return x + added


class Conv1d(nn.Module):
    """Residual blocks, each of twice the dilation of the one before.

    If causal, a position sees itself and earlier ones alone.
    """

    keeps_positions = True

    def __init__(self, model: spec.Conv1d, features: int) -> None:
        super().__init__()
        self.entry = nn.Linear(features, model.width)
        self.blocks = nn.ModuleList(_Block(model, 2**i) for i in range(model.layers))
        self.norm = nn.LayerNorm(model.width)
        self.width = model.width

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """Features [B, …, F] → z [B, P, D]; real [B, P]: false at padding."""
        x = self.entry(x.flatten(1, -2))
        for block in self.blocks:
            x = block(x, real)
        z: Tensor = self.norm(x)
        return z
