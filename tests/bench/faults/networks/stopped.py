"""Two layers, which may be frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


class Network(nn.Module):
    def __init__(self, tasks: Sequence[Any], inputs: Any, frozen: bool, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs["features"].shape[-1], width)
        self.second = nn.Linear(width, width)
        self.heads = nn.ModuleDict({f"task_{t.name}": nn.Linear(width, t.outputs) for t in tasks})
        for layer in (self.first, self.second):
            layer.requires_grad_(not frozen)

    def trunk(self, inputs: Any) -> Any:
        x = self.first(inputs["features"].flatten(1)).relu()
        return self.second(x).relu()

    def head(self, task: str, z: Any, inputs: Any) -> Any:
        return self.heads[f"task_{task}"](z)


def build(tasks: Sequence[Any], inputs: Any, frozen: bool = False, width: int = 8) -> Network:
    return Network(tasks, inputs, frozen, width)
