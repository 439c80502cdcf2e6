"""Tiny networks, batches and steppers for the tests of the maths."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter
from torch import Tensor

from job import spec
from job.balance.base import Balancer
from job.balance.build import build_balancer
from job.data.encoding.input_info import InputInfo
from job.distributed.ranks import ALONE
from job.model.built_in import BuiltIn
from job.model.losses import TaskLoss
from job.train.gradients import passes as passes_of
from job.train.gradients.elements import weigh_elements
from job.train.gradients.factored import Gradients
from job.train.gradients.ownership import ownership
from job.train.gradients.routes import FactoredRoute
from job.train.step import Measured, Stepper
from job.train.updates import optimizer

STEPS, FEATURES = 6, 3
BALANCE: TypeAdapter[spec.Balance] = TypeAdapter(spec.Balance)


def task(name: str, level: str, kind: str, outputs: int = 1, **more: Any) -> spec.Task:
    loss = {"kind": kind}
    return spec.Task.model_validate(
        {"name": name, "level": level, "outputs": outputs, "loss": loss} | more
    )


TYPE = task("type", "window", "cross_entropy", 3)
POINTERS = task("pointers", "window", "mse", 2, transform={"kind": "scale", "by": 2.0})
BINARY = task("binary", "step", "binary_cross_entropy")
COUNTDOWN = task("countdown", "step", "huber", activation="tanh")
CLASSES = task("classes", "step", "cross_entropy", 4)
WIDE = task("wide", "step", "mae", 40)
DEAD = task("dead", "step", "mse", activation="relu")
"""Has no gradient where its outputs are negative, which `kill` makes them."""
MIXED = [TYPE, COUNTDOWN, POINTERS, CLASSES, BINARY]


class Batch(NamedTuple):
    """Features [B, T, F], by name, and per-task targets."""

    inputs: dict[str, Tensor]
    targets: list[Tensor]


def batch(tasks: Sequence[spec.Task], size: int = 5, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    targets = []
    for t in tasks:
        shape = (size, STEPS) if t.level == "step" else (size,)
        if t.loss.of_classes:
            targets.append(torch.randint(t.outputs, shape, generator=draw))
        elif t.loss.kind == "binary_cross_entropy":
            targets.append(torch.randint(2, (*shape, t.outputs), generator=draw).float())
        elif t.loss.kind == "poisson_nll":
            targets.append(torch.randint(5, (*shape, t.outputs), generator=draw).float())
        else:
            targets.append(torch.randn(*shape, t.outputs, generator=draw))
    return Batch({"features": torch.randn(size, STEPS, FEATURES, generator=draw)}, targets)


def built_in(model: spec.BuiltInModel, tasks: Sequence[spec.Task], *shape: int) -> BuiltIn:
    """A network of one input, whose samples have this shape."""
    return BuiltIn(model, tasks, {"features": InputInfo()}, {"features": shape})


def network(tasks: Sequence[spec.Task], dropout: float = 0.4) -> BuiltIn:
    torch.manual_seed(0)
    drop = spec.LstmDropout(input=dropout, heads=dropout)
    model = spec.Lstm(hidden=4, projection=5, dropout=drop)
    return built_in(model, tasks, STEPS, FEATURES)


def kill(model: BuiltIn, k: int) -> None:
    """Give head k outputs far below zero."""
    model.heads[k].output.bias.data.fill_(-100.0)


def balancer(tasks: Sequence[spec.Task], section: dict[str, Any]) -> Balancer:
    sizes = [t.outputs * (STEPS if t.level == "step" else 1) for t in tasks]
    return build_balancer(BALANCE.validate_python(section), [t.name for t in tasks], sizes)


class Net:
    """A stepper with its optimizer."""

    def __init__(
        self,
        tasks: Sequence[spec.Task],
        section: dict[str, Any] | None = None,
        dropout: float = 0.4,
        lr: float = 1e-2,
        own: Balancer | None = None,
        model: BuiltIn | None = None,
        inputs: dict[str, Tensor] | None = None,
        **stepper: Any,
    ) -> None:
        section = section or {"kind": "fixed"}
        self.tasks = list(tasks)
        self.model = model or network(tasks, dropout)
        inputs = batch(tasks).inputs if inputs is None else inputs
        self.stepper = Stepper(
            self.model,
            ownership(self.model, inputs),
            [TaskLoss(t) for t in tasks],
            own or balancer(tasks, section),
            **stepper,
        )
        adamw = spec.AdamW(lr=lr, weight_decay=0.0)
        self.optimizer = optimizer.build_optimizer(
            adamw, BALANCE.validate_python(section), self.stepper
        )

    def step(self, at: Batch, audit: bool = False) -> Measured:
        measured: Measured = self.stepper(at.inputs, at.targets, self.optimizer, audit)
        return measured

    def state(self) -> dict[str, Tensor]:
        """Copies of all parameters and of the optimizer's state."""
        kept = dict(self.model.named_parameters())
        for i, moments in self.optimizer.state_dict()["state"].items():
            kept |= {f"{i}.{name}": value for name, value in moments.items()}
        return {name: value.detach().clone() for name, value in kept.items()}


def gradients_at(net: Net, z: Tensor, at: Batch) -> Gradients:
    """The gradients of the factored route at a detached z."""
    passes = net.stepper.passes
    assert isinstance(passes.route, FactoredRoute)
    elements = weigh_elements(net.stepper.of_tasks, at.targets, None, None, ALONE)
    losses = passes.losses_of(passes_of.Batch(at.inputs, at.targets, None, elements))
    return passes.route.backward(z, losses, None)[2]


def losses_of(net: Net, outputs: Sequence[Tensor], at: Batch) -> list[Tensor]:
    """Each task's loss [], with its graph."""
    rows = zip(net.stepper.losses, outputs, at.targets, strict=True)
    return [loss(output, target)[0] for loss, output, target in rows]


def at_z(net: Net, at: Batch) -> tuple[Tensor, Tensor, list[Tensor]]:
    """z with its graph, its detached copy that the heads read, and the losses read from it."""
    model = copy.deepcopy(net.model)
    z = model.represent(at.inputs)
    leaf = z.detach().requires_grad_()
    by_step, _ = model.read_steps(leaf)
    outputs = model.outputs(by_step, [leaf.mean(1)] * model.is_step.count(False))
    return z, leaf, losses_of(net, outputs, at)
