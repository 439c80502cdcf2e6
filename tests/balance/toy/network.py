"""The toy problem as a network, so that job.train.step's Stepper can train it.

The trunk's one parameter is x, and z = x: one sample of one step. Each head is a real window head
whose projection is f1 or f2 of the mean of z, here z itself, and whose linear map is the identity.
The loss of a task is the mean absolute error to f's lower bound, so exactly f less that bound.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from job import spec
from job.balance.base import Balancer
from job.balance.build import build_balancer
from job.model.built_in import BuiltIn, Trunk
from job.model.heads import WindowHead
from job.model.losses import TaskLoss
from job.model.network import Inputs
from job.train.gradients.ownership import ownership
from job.train.step import Stepper
from job.train.updates import optimizer
from tests.balance.toy.problem import FLOOR, LOWEST, Point
from tests.support.nets import built_in

TASKS = [
    spec.Task(name=name, level="window", loss=spec.MeanAbsolute(kind="mae"))
    for name in ("f1", "f2")
]
SMALL = spec.Lstm(hidden=1, projection=1)
LR = 1e-3
ADAM = spec.AdamW(lr=LR, weight_decay=0.0)
BALANCE: TypeAdapter[spec.Balance] = TypeAdapter(spec.Balance)


class Place(Trunk):
    """A trunk that is its parameter x, whatever the features."""

    def __init__(self, start: Point) -> None:
        nn.Module.__init__(self)  # it has no entry and no encoder
        self.x = nn.Parameter(torch.tensor(start))

    def forward(self, inputs: Inputs) -> Tensor:
        """z [1, 1, 2]."""
        return self.x[None, None]


class Function(nn.Module):
    """s f1 or f2, in torch."""

    def __init__(self, first: bool, s: float) -> None:
        super().__init__()
        self.sign, self.s = (1.0, s) if first else (-1.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Points [B, 2] → values [B, 1]; f2 is f1 mirrored in a, but for its ravine's place."""
        a, b = x.split(1, -1)
        edge = (-a - 7) / 2 + b.tanh() if self.sign > 0 else (-a + 3) / 2 - b.tanh() + 2
        ravine = edge.abs().clamp(min=FLOOR).log() + 6
        bowl = ((7 - self.sign * a) ** 2 + 0.1 * (b + 8) ** 2) / 10 - 20
        above, below = (b / 2).tanh().clamp(min=0), (-b / 2).tanh().clamp(min=0)
        f: Tensor = self.s * (ravine * above + bowl * below)
        return f


def network(place: Place, s: float) -> BuiltIn:
    """The problem at a place, f1 scaled by s."""
    model = built_in(SMALL, TASKS, 1, 1)
    model.trunk = place
    for k, head in enumerate(model.heads):
        assert isinstance(head, WindowHead)
        head.projection = nn.Sequential(Function(k == 0, s))
        nn.init.ones_(head.output.weight)
        nn.init.zeros_(head.output.bias)
    return model


def balancer(section: dict[str, Any]) -> Balancer:
    """The balancer of a spec's section `balance`, for the two tasks of one output each."""
    return build_balancer(BALANCE.validate_python(section), ["f1", "f2"], [1, 1])


class Toy:
    """The problem under a balancer, trained by our own step and optimizer."""

    def __init__(self, section: dict[str, Any], start: Point, s: float) -> None:
        self.place = Place(start)
        losses = [TaskLoss(task) for task in TASKS]
        self.model, inputs = network(self.place, s), {"features": torch.zeros(1, 1, 1)}
        known = ownership(self.model, inputs)
        self.stepper = Stepper(self.model, known, losses, balancer(section))
        chosen = BALANCE.validate_python(section)
        self.optimizer = optimizer.build_optimizer(ADAM, chosen, self.stepper)
        for group in self.optimizer.param_groups:
            if group["part"] == "heads":  # f1 and f2 stay what they are
                group["lr"] = 0.0
        self.targets = [torch.tensor([[s * LOWEST]]), torch.tensor([[LOWEST]])]

    def step(self) -> Point:
        """One step; where x then is."""
        self.stepper({"features": torch.zeros(1, 1, 1)}, self.targets, self.optimizer)
        a, b = self.place.x.tolist()
        return a, b
