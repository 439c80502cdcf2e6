"""Two convolutions over the 8 x 8 images of digits, and a pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


class Network(nn.Module):
    def __init__(self, tasks: Sequence[Any], channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(channels * 16, 32),
            nn.ReLU(),
        )
        self.heads = nn.ModuleDict({f"task_{t.name}": nn.Linear(32, t.outputs) for t in tasks})

    def trunk(self, inputs: Any) -> Any:
        return self.layers(inputs["features"].flatten(1))

    def head(self, task: str, z: Any, inputs: Any) -> Any:
        return self.heads[f"task_{task}"](z)


def build(tasks: Sequence[Any], inputs: Any, channels: int = 8) -> Network:
    return Network(tasks, channels)
