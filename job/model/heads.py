"""The heads of built-in networks: what each task reads of z [B, P, D] at its P positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from job.model.dropout import Dropout


class StepHead(nn.Module):
    """A linear map per position; the dropped features are the same at every position."""

    def __init__(self, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(width, outputs)

    def rows(self, batch: int) -> Tensor:
        """The linear map of each sample [B, O, D], dropped features zeroed.

        All positions have one mask (Gal and Ghahramani 2016), as independent masks would average
        out over neighbouring ones. Masking the map instead of z saves K copies of z.
        """
        weight = self.output.weight
        mask: Tensor = self.dropout(weight.new_ones(batch, 1, weight.shape[1]))
        return weight * mask


class WindowHead(nn.Module):
    """A projection and a linear map of the mean of z over the positions.

    Each head has its own projection. A layer that only some heads share would belong neither to
    the trunk, where balancing acts, nor to one task.
    """

    def __init__(self, width: int, outputs: int, projection: int, dropout: float) -> None:
        super().__init__()
        self.projection = nn.Sequential(nn.Linear(width, projection), nn.ReLU(), Dropout(dropout))
        self.output = nn.Linear(projection, outputs)

    def forward(self, pooled: Tensor) -> Tensor:
        """Mean of z over the positions [B, D] → outputs [B, O]."""
        outputs: Tensor = self.output(self.projection(pooled))
        return outputs


Head = StepHead | WindowHead


def read_steps(heads: list[StepHead], z: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of all step heads [B, P, R], by one product, and their linear maps [B, R, D].

    R is the number of outputs of all step tasks, in the order of the tasks.
    """
    batch, positions, width = z.shape
    if not heads:
        return z.new_zeros(batch, positions, 0), z.new_zeros(batch, 0, width)
    rows = torch.cat([head.rows(batch) for head in heads], 1)
    bias = torch.cat([head.output.bias for head in heads])
    return torch.baddbmm(bias, z, rows.mT), rows
