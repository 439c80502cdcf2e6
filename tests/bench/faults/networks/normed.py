"""Layers with a BatchNorm behind each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


class Network(nn.Module):
    def __init__(
        self, tasks: Sequence[Any], inputs: Any, widths: Sequence[int], momentum: float
    ) -> None:
        super().__init__()
        last = inputs["features"].shape[-1]
        layers = []
        for width in widths:
            layers += [nn.Linear(last, width), nn.BatchNorm1d(width, momentum=momentum), nn.ReLU()]
            last = width
        self.layers = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({f"task_{t.name}": nn.Linear(last, t.outputs) for t in tasks})

    def trunk(self, inputs: Any) -> Any:
        return self.layers(inputs["features"].flatten(1))

    def head(self, task: str, z: Any, inputs: Any) -> Any:
        return self.heads[f"task_{task}"](z)


def build(
    tasks: Sequence[Any], inputs: Any, widths: Sequence[int] = (32, 32), momentum: float = 0.1
) -> Network:
    return Network(tasks, inputs, widths, momentum)
