"""Built-in networks whose heads are more than a linear map: layers, shared layers, or experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn

from job import spec
from job.data.encoding.input_info import InputInfo
from job.model.built_in import Shape, Trunked, mean
from job.model.dropout import Dropout
from job.model.experts import Mmoe, Ple
from job.model.network import Inputs, Z


class Deep(Trunked):
    """A trunk, experts if the spec has some, and a stack of layers per task.

    Tasks of one `share` have the same stack, and an output layer each. z is the trunk's output
    [B, P, D], or its mean over the positions [B, D] where no task is of positions, or what the
    experts make of either.
    """

    def __init__(
        self,
        model: spec.BuiltInModel,
        tasks: Sequence[spec.Task],
        inputs: Mapping[str, InputInfo],
        shapes: Mapping[str, Shape],
        indicated: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__(model, tasks, inputs, shapes, indicated)
        self.is_step = {task.name: task.level == "step" for task in tasks}
        self.experts: Mmoe | Ple | None = None
        width = self.trunk.width
        match model.experts:
            case spec.Mmoe() as section:
                self.experts = Mmoe(section, self.tasks, width)
            case spec.Ple() as section:
                self.experts = Ple(section, self.tasks, width)
        width = self.experts.width if self.experts else width
        self.stack_of = {
            task.name: f"share_{task.head.share}" if task.head.share else f"task_{task.name}"
            for task in tasks
        }
        self.stacks, self.by_task = nn.ModuleDict(), nn.ModuleDict()
        for task in tasks:
            hidden = task.hidden(model.projection)
            if self.stack_of[task.name] not in self.stacks:
                stack = _stack([width, *hidden], model.dropout.heads)
                self.stacks[self.stack_of[task.name]] = stack
            read = hidden[-1] if hidden else width
            self.by_task[f"task_{task.name}"] = nn.Linear(read, task.head_width)

    def start_at(self, task: str, outputs: Tensor) -> None:
        """Set the biases of a task's head, so that its outputs are about these [O] at the start."""
        output = self.by_task[f"task_{task}"]
        assert isinstance(output, nn.Linear)
        output.bias.data.copy_(outputs)

    def represent(self, inputs: Inputs) -> Z:
        """The shared representation z."""
        x: Tensor = self.trunk(inputs)
        if not any(self.is_step.values()):
            x = mean(x, self.trunk.pooling(inputs))
        return x if self.experts is None else self.experts.represent(x)

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        """The outputs [B, P, O] (step) or [B, O] (window) of a task."""
        outputs: Tensor = self.by_task[f"task_{task}"](self._last_input(task, z, inputs))
        return outputs

    def last_inputs(self, z: Z, inputs: Inputs) -> list[Tensor]:
        """What the last linear map of each task reads [B, D], or [B, P, D] of a step task."""
        return [self._last_input(task, z, inputs) for task in self.tasks]

    def _last_input(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        if self.experts is None:
            assert isinstance(z, Tensor)
            x = z
        else:
            x = self.experts.read(task, z)
        if x.dim() == 3 and not self.is_step[task]:
            x = mean(x, self.trunk.pooling(inputs))
        read: Tensor = self.stacks[self.stack_of[task]](x)
        return read


def _stack(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear maps with ReLU and dropout; nothing if there is one width."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(), Dropout(dropout)]
    return nn.Sequential(*layers)
