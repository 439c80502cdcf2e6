"""A network of plain layers, as in most programs of the collections, its parts by options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "none": nn.Identity}


class Network(nn.Module):
    def __init__(
        self,
        tasks: Sequence[Any],
        inputs: Any,
        widths: Sequence[int],
        activation: str,
        output: dict[str, str],
        start: dict[str, float],
    ) -> None:
        super().__init__()
        last = inputs["features"].shape[-1]
        layers = []
        for width in widths:
            layers += [nn.Linear(last, width), ACTIVATIONS[activation]()]
            last = width
        self.layers = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({f"task_{t.name}": nn.Linear(last, t.outputs) for t in tasks})
        self.output = {name: _output(kind) for name, kind in output.items()}
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                _start(layer, **start)

    def trunk(self, inputs: Any) -> Any:
        return self.layers(inputs["features"].flatten(1))

    def head(self, task: str, z: Any, inputs: Any) -> Any:
        outputs = self.heads[f"task_{task}"](z)
        return self.output[task](outputs) if task in self.output else outputs


def _output(kind: str) -> nn.Module:
    return nn.Softmax(-1) if kind == "softmax" else ACTIVATIONS[kind]()


def _start(
    layer: nn.Linear,
    weight: float | None = None,
    deviation: float | None = None,
    bias: float | None = None,
) -> None:
    """Set all weights to one value, or draw them; null: torch's own start."""
    if weight is not None:
        nn.init.constant_(layer.weight, weight)
    if deviation is not None:
        nn.init.normal_(layer.weight, std=deviation)
    if bias is not None:
        nn.init.constant_(layer.bias, bias)


def build(
    tasks: Sequence[Any],
    inputs: Any,
    widths: Sequence[int] = (32,),
    activation: str = "relu",
    output: dict[str, str] | None = None,
    start: dict[str, float] | None = None,
) -> Network:
    return Network(tasks, inputs, widths, activation, output or {}, start or {})
