"""A network of one's own: a module that a function of the user's file makes (docs/networks.md).

inputs ─▶ scaling ─▶ the user's trunk ─▶ z ─▶ the user's head(task, …) ─▶ outputs, checked
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from job.data.encoding.input_info import InputInfo
from job.errors import Fault, InputError
from job.model.network import Inputs, Network, Z, parts
from job.model.own.code import OwnCode, beside_output
from job.model.scaling import Scaling

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """What `build` is told of a task."""

    name: str
    level: str
    """`window` or `step`, as in the spec."""
    positions: Shape
    """Shape of a sample's positions that have a prediction each; () if the sample has one."""
    outputs: int
    """Numbers for each prediction: its head returns [B, *positions, outputs]."""


@dataclass(frozen=True)
class Input:
    """What `build` is told of an input, which trunk and head get as [B, *shape]."""

    shape: Shape
    """Positions, then features."""
    codes: tuple[int, ...] = ()
    """By feature, how many codes it has, from 0, if they are codes, int64; () if they are numbers,
    scaled, float32."""


class _Prepared(Mapping[str, Tensor]):
    """The inputs as the user's module gets them: scaled, codes, or the mask of real positions.

    One that nobody reads costs nothing, as most heads read z alone.
    """

    def __init__(self, inputs: Inputs, scalings: Mapping[str, Scaling]) -> None:
        self.inputs, self.scalings = inputs, scalings
        self.done: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.done:
            x = self.inputs[name]
            if name in self.scalings:
                x = self.scalings[name](x)
            self.done[name] = x if x.is_floating_point() or x.dtype == torch.bool else x.long()
        return self.done[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.inputs)

    def __len__(self) -> int:
        return len(self.inputs)


class OwnForward(Network):
    """A network of one's own that has no z: `forward(inputs)` returns outputs by task."""

    def __init__(
        self, own: nn.Module, tasks: Sequence[Task], scalings: Mapping[str, Scaling], code: OwnCode
    ) -> None:
        super().__init__([task.name for task in tasks])
        self.shapes = {task.name: (*task.positions, task.outputs) for task in tasks}
        # The prefix avoids clashes with attributes of nn.Module.
        self.by_input = nn.ModuleDict({f"input_{name}": each for name, each in scalings.items()})
        self.own, self.code, self.place = own, code, code.file
        self.scaled = list(scalings)

    @property
    def scalings(self) -> dict[str, Scaling]:
        """Of each input of numbers."""
        each = zip(self.scaled, self.by_input.values(), strict=True)
        return {name: scaling for name, scaling in each if isinstance(scaling, Scaling)}

    def forward(self, inputs: Inputs) -> list[Tensor]:
        """The outputs of every task, in their order. Raises InputError."""
        with self.code.blamed("forward must compute the outputs of a batch", self.own):
            by_task = self.own(self._prepared(inputs))
        if not isinstance(by_task, Mapping) or any(name not in by_task for name in self.tasks):
            found = sorted(map(str, by_task)) if isinstance(by_task, Mapping) else _name(by_task)
            rule = f"forward returns a dict of outputs by task: {', '.join(self.tasks)}"
            place = self.code.place(self.own)
            raise InputError([Fault(place, str(found), rule, "return one for each task")])
        return [self._checked(task, by_task[task], inputs, self.own) for task in self.tasks]

    def start_at(self, task: str, outputs: Tensor) -> None:
        """Make the outputs of a task about these [O] at the start, if the module offers it."""
        start_at = getattr(self.own, "start_at", None)
        if start_at is not None:
            with self.code.blamed("start_at must set the outputs at the start", start_at):
                start_at(task, outputs)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """In it, what fails in forward or backward is an InputError with the user's line."""
        with (
            torch.autograd.set_detect_anomaly(True, check_nan=False),  # it knows forward's lines
            warnings.catch_warnings(record=True, action="always") as seen,
            self.code.blamed("a backward must go through the network", self.own, seen),
        ):
            yield

    def _prepared(self, inputs: Inputs) -> _Prepared:
        return _Prepared(inputs, self.scalings)

    def _checked(self, task: str, outputs: Any, inputs: Inputs, function: object) -> Tensor:
        """The outputs of a task, [B, O] or [B, P, O]. Raises InputError unless they fit it."""
        # Not len(), which a network that is exported for batches of any size has no number for.
        shape = (next(iter(inputs.values())).shape[0], *self.shapes[task])
        if isinstance(outputs, Tensor) and outputs.shape == shape:
            return outputs if len(shape) < 4 else outputs.flatten(1, -2)  # as the targets have them
        found = f"outputs {list(outputs.shape)}" if isinstance(outputs, Tensor) else _name(outputs)
        rule = f"its loss needs a tensor {list(shape)}, [batch, positions…, outputs]"
        remedy = "return outputs of that shape, or correct the spec's task"
        place = self.code.place(function)
        raise InputError([Fault(place, f"{found} of the task {task}", rule, remedy)])


class OwnNetwork(OwnForward):
    """A network of one's own with `trunk(inputs)` and `head(task, z, inputs)`."""

    def forward(self, inputs: Inputs) -> list[Tensor]:
        """The outputs of every task, in their order. Raises InputError."""
        return Network.forward(self, inputs)

    def represent(self, inputs: Inputs) -> Z:
        """The shared representation z of a batch. Raises InputError."""
        with self.code.blamed("trunk must compute z of a batch", self.own.trunk):
            z: Z = self.own.trunk(self._prepared(inputs))  # type: ignore[operator]
        if not _is_z(z):
            rule = "z is a tensor, or a tuple or dict of tensors, some of them of floats"
            place = self.code.place(self.own.trunk)
            raise InputError([Fault(place, _name(z), rule, "return such from trunk")])
        return z

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        """The outputs [B, O], or [B, P, O], of a task. Raises InputError."""
        with self.code.blamed(f"head must compute the outputs of the task {task}", self.own.head):
            outputs = self.own.head(task, z, self._prepared(inputs))  # type: ignore[operator]
        return self._checked(task, outputs, inputs, self.own.head)


def build_own(
    code: OwnCode,
    build: str,
    options: Mapping[str, Any],
    tasks: Sequence[Task],
    inputs: Mapping[str, InputInfo],
    scalings: Mapping[str, Scaling],
    shapes: Mapping[str, Shape],
) -> OwnForward:
    """The network that the user's function makes. Raises InputError.

    shapes: of a sample, by input.
    """
    function = code.function(build)
    described = {
        name: Input((*shapes[name][:-1], scalings[name].width))
        if name in scalings
        else Input(shapes[name], about.codes)
        for name, about in inputs.items()
    }
    rule = f"{build}(tasks, inputs, **options) must return a network"
    with code.blamed(rule, function), beside_output():
        own = function(tuple(tasks), described, **options)
    place = code.place(function)
    if not isinstance(own, nn.Module):
        rule, remedy = f"{build} must return a torch.nn.Module", "return the network"
        raise InputError([Fault(place, _name(own), rule, remedy)])
    if callable(getattr(own, "trunk", None)) and callable(getattr(own, "head", None)):
        return OwnNetwork(own, tasks, scalings, code)
    if type(own).forward is nn.Module.forward:
        rule = "a network has trunk(inputs) and head(task, z, inputs), or forward(inputs) alone"
        raise InputError([Fault(place, f"{type(own).__name__} without them", rule, "define them")])
    return OwnForward(own, tasks, scalings, code)


def _is_z(z: object) -> bool:
    try:
        return any(part.is_floating_point() for part in parts(z))  # type: ignore[arg-type]
    except (AttributeError, TypeError):
        return False


def _name(value: object) -> str:
    return f"{'None' if value is None else type(value).__name__}"
