"""Two layers with dropout between them, by torch's function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn import functional


class Network(nn.Module):
    def __init__(self, tasks: Sequence[Any], inputs: Any, share: float, always: bool) -> None:
        super().__init__()
        self.share, self.always = share, always
        self.first = nn.Linear(inputs["features"].shape[-1], 64)
        self.second = nn.Linear(64, 32)
        self.heads = nn.ModuleDict({f"task_{t.name}": nn.Linear(32, t.outputs) for t in tasks})

    def trunk(self, inputs: Any) -> Any:
        x = self.first(inputs["features"].flatten(1)).relu()
        x = functional.dropout(x, self.share, training=self.always or self.training)
        return self.second(x).relu()

    def head(self, task: str, z: Any, inputs: Any) -> Any:
        return self.heads[f"task_{task}"](z)


def build(tasks: Sequence[Any], inputs: Any, share: float = 0.1, always: bool = False) -> Network:
    return Network(tasks, inputs, share, always)
