"""A small residual network over images (He et al. 2016, with norms before the convolutions)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from job import spec
from job.model.dropout import Dropout

GROUP = 8
"""Channels of a norm's group, at most."""


def _norm(channels: int) -> nn.GroupNorm:
    """A norm of each sample by itself (Wu and He 2018): batches and ranks change nothing."""
    groups = max(1, channels // GROUP)
    return nn.GroupNorm(groups if channels % groups == 0 else 1, channels)


class _Block(nn.Module):
    """Two convolutions with norms, added to what comes in."""

    def __init__(self, before: int, after: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.first_norm, self.second_norm = _norm(before), _norm(after)
        self.first = nn.Conv2d(before, after, 3, stride, padding=1)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        same = before == after and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(before, after, 1, stride)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', H / stride, W / stride]."""
        seen = torch.relu(self.first_norm(x))
        added = self.second(self.dropout(torch.relu(self.second_norm(self.first(seen)))))
        total: Tensor = self.shortcut(x) + added
        return total


class Conv2d(nn.Module):
    """Stages of blocks; each but the first has twice the channels.

    It also halves height and width, unless a task has a target for each pixel (`dense`).
    """

    keeps_positions = False

    def __init__(self, model: spec.Conv2d, features: int, dense: bool) -> None:
        super().__init__()
        self.entry = nn.Conv2d(features, model.width, 3, padding=1)
        blocks: list[nn.Module] = []
        channels = model.width
        for stage, count in enumerate(model.blocks):
            for i in range(count):
                halves = stage > 0 and i == 0
                after = channels * 2 if halves else channels
                stride = 2 if halves and not dense else 1
                blocks.append(_Block(channels, after, stride, model.dropout.hidden))
                channels = after
        self.blocks = nn.Sequential(*blocks)
        self.norm = _norm(channels)
        self.width = channels

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """Images [B, H, W, C] → z [B, P, D], P = H W if dense; they have no padding."""
        image = x.movedim(-1, 1)
        z: Tensor = torch.relu(self.norm(self.blocks(self.entry(image))))
        return z.flatten(2).mT
