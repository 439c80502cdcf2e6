"""The network of all sides: a network of one's own, as docs/networks.md describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn


class Network(nn.Module):
    """A GRU with dropout, and a linear head for each task."""

    def __init__(self, tasks: Sequence[Any], inputs: Mapping[str, Any], width: int) -> None:
        super().__init__()
        self.encoder = nn.GRU(inputs["features"].shape[-1], width, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.heads = nn.ModuleDict({f"task_{t.name}": nn.Linear(width, t.outputs) for t in tasks})
        self.of_samples = [task.name for task in tasks if not task.positions]

    def trunk(self, inputs: Mapping[str, Tensor]) -> Tensor:
        z, _ = self.encoder(inputs["features"])
        dropped: Tensor = self.dropout(z)
        return dropped

    def head(self, task: str, z: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        outputs: Tensor = self.heads[f"task_{task}"](z.mean(1) if task in self.of_samples else z)
        return outputs


def build(tasks: Sequence[Any], inputs: Mapping[str, Any], width: int = 96) -> Network:
    return Network(tasks, inputs, width)
