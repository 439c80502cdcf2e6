"""The built-in networks: entry → encoder → shared representation z [B, P, D] → one head per task.

P positions are the time steps of a sequence, the pixels of an image, or one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import prod

import torch
from torch import Tensor, nn

from job import spec
from job.data.encoding.input_info import MASK, InputInfo
from job.distributed.ranks import Share
from job.model.dropout import Dropout
from job.model.encoders.conv1d import Conv1d
from job.model.encoders.conv2d import Conv2d
from job.model.encoders.lstm import Lstm
from job.model.encoders.mlp import Mlp
from job.model.encoders.transformer import Transformer
from job.model.entry import Entry
from job.model.heads import Head, StepHead, WindowHead, read_steps
from job.model.network import Inputs, Network, Z
from job.model.scaling import Scaling

Shape = tuple[int, ...]
Encoder = Lstm | Mlp | Conv1d | Conv2d | Transformer


class Trunk(nn.Module):
    """Entry, input dropout and an encoder, which have the parameters that all tasks share."""

    def __init__(self, entry: Entry, dropout: float, encoder: Encoder) -> None:
        super().__init__()
        self.entry, self.dropout, self.encoder = entry, Dropout(dropout), encoder
        self.at_end = 0 if isinstance(encoder, Mlp) else entry.width_apart
        self.width = encoder.width + self.at_end

    def forward(self, inputs: Inputs) -> Tensor:
        """Inputs [B, …, F], as the data has them → z [B, P, D].

        Inputs of a single position that stay apart join an mlp's at its start, and images at z:
        repeated at every pixel they would drown the image in the norms.
        """
        x, apart = self.entry(inputs)
        if apart is not None and not self.at_end:
            x, apart = torch.cat([x.flatten(1), apart], 1), None
        z: Tensor = self.encoder(self.dropout(x), real_positions(inputs))
        if apart is None:
            return z
        joined = self.dropout(apart).unsqueeze(1).expand(-1, z.shape[1], -1)
        return torch.cat([z, joined], -1)

    def pooling(self, inputs: Inputs) -> Tensor | None:
        """What each position counts in the mean of z [B, P, 1]; None: all the same."""
        real = real_positions(inputs)
        if real is None or not self.encoder.keeps_positions:
            return None
        return (real / real.sum(1, keepdim=True)).unsqueeze(-1)


def real_positions(inputs: Inputs) -> Tensor | None:
    """[B, P] true at the positions that are no padding; None: all of them."""
    return inputs[MASK].flatten(1) if MASK in inputs else None


def mean(z: Tensor, counts: Tensor | None) -> Tensor:
    """The mean [B, D] of z [B, P, D] over positions that count as `pooling` says."""
    return z.mean(1) if counts is None else (counts.to(z.dtype) * z).sum(1)


def build_encoder(model: spec.BuiltInModel, width: int, positions: Shape, dense: bool) -> Encoder:
    """The encoder of a spec's model, for features [B, *positions, width]; of an mlp [B, width].

    dense: whether a task has a target for each position.
    """
    match model:
        case spec.Lstm():
            return Lstm(model, width)
        case spec.Mlp():
            return Mlp(model, width)
        case spec.Conv1d():
            return Conv1d(model, width)
        case spec.Conv2d():
            return Conv2d(model, width, dense)
        case spec.Transformer():
            return Transformer(model, width, prod(positions))


def build_trunk(
    model: spec.BuiltInModel,
    tasks: Sequence[spec.Task],
    inputs: Mapping[str, InputInfo],
    shapes: Mapping[str, Shape],
    indicated: Mapping[str, Sequence[int]],
) -> Trunk:
    """The trunk of a spec's model; see Trunked."""
    entry = Entry(inputs, shapes, indicated, apart=isinstance(model, spec.Mlp | spec.Conv2d))
    dense = any(task.level == "step" for task in tasks)
    width = entry.width
    if isinstance(model, spec.Mlp):
        width = entry.width * prod(entry.positions) + entry.width_apart
    encoder = build_encoder(model, width, entry.positions, dense)
    return Trunk(entry, model.dropout.input, encoder)


class Trunked(Network):
    """What built-in networks have in common: the trunk of a spec's model, and dropout of our own.

    inputs: what each input holds. shapes: of a sample, by input. indicated: by input, the features
    that have another one beside them, which says where they are missing.
    """

    def __init__(
        self,
        model: spec.BuiltInModel,
        tasks: Sequence[spec.Task],
        inputs: Mapping[str, InputInfo],
        shapes: Mapping[str, Shape],
        indicated: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__([task.name for task in tasks])
        self.trunk = build_trunk(model, tasks, inputs, shapes, indicated or {})

    @property
    def scalings(self) -> dict[str, Scaling]:
        """Of each input of numbers."""
        return self.trunk.entry.scalings

    @cached_property
    def dropouts(self) -> list[Dropout]:
        """All of them. Walking the modules for these at every step would take time."""
        return [module for module in self.modules() if isinstance(module, Dropout)]

    def begin_batch(self, share: Share | None) -> None:
        """Set this rank's part of the next batch; None if this process has all of it."""
        for dropout in self.dropouts:
            dropout.share = share


class BuiltIn(Trunked):
    """A trunk and, in the order of the tasks, their heads, which are linear or read z's mean."""

    def __init__(
        self,
        model: spec.BuiltInModel,
        tasks: Sequence[spec.Task],
        inputs: Mapping[str, InputInfo],
        shapes: Mapping[str, Shape],
        indicated: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__(model, tasks, inputs, shapes, indicated)
        # The prefix avoids clashes with attributes of nn.Module, such as `type`.
        self.by_task = nn.ModuleDict(
            {f"task_{task.name}": _head(model, self.trunk.width, task) for task in tasks}
        )
        self.heads = [head for head in self.by_task.values() if isinstance(head, Head)]
        self.is_step = [isinstance(head, StepHead) for head in self.heads]
        self.step_heads = [head for head in self.heads if isinstance(head, StepHead)]

    def start_at(self, task: str, outputs: Tensor) -> None:
        """Set the biases of a task's head, so that its outputs are about these [O] at the start."""
        self.heads[self.tasks.index(task)].output.bias.data.copy_(outputs)

    def pooling(self, inputs: Inputs) -> Tensor | None:
        """What each position counts in the mean of z [B, P, 1]; None: all the same."""
        return self.trunk.pooling(inputs)

    def read_steps(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of all step heads [B, P, R], by one product, and their linear maps [B, R, D]."""
        return read_steps(self.step_heads, z)

    def outputs(self, by_step: Tensor, pooled: Sequence[Tensor]) -> list[Tensor]:
        """Each task's outputs [B, P, O] or [B, O].

        by_step [B, P, R]: the outputs of all step heads. pooled: for each window task, the mean of
        z over the positions [B, D].
        """
        widths = [h.output.out_features for h in self.step_heads]
        slices = iter(by_step.split(widths, -1) if widths else ())  # none: torch.export cannot read
        means = iter(pooled)
        return [
            next(slices) if isinstance(head, StepHead) else head(next(means)) for head in self.heads
        ]

    def last_inputs(self, z: Z, inputs: Inputs) -> list[Tensor]:
        """What the last linear map of each task reads [B, D], or [B, P, D] of a step task."""
        assert isinstance(z, Tensor)
        pooled = mean(z, self.pooling(inputs))
        return [z if isinstance(h, StepHead) else h.projection(pooled) for h in self.heads]

    def represent(self, inputs: Inputs) -> Tensor:
        """The shared representation z [B, P, D]."""
        z: Tensor = self.trunk(inputs)
        return z

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        """The outputs [B, P, O] (step) or [B, O] (window) of a task."""
        assert isinstance(z, Tensor)
        head = self.heads[self.tasks.index(task)]
        if isinstance(head, StepHead):
            return read_steps([head], z)[0]
        outputs: Tensor = head(mean(z, self.pooling(inputs)))
        return outputs

    def forward(self, inputs: Inputs) -> list[Tensor]:
        """Per task, outputs [B, P, O] (step) or [B, O] (window)."""
        return self._all_outputs(self.represent(inputs), inputs)

    def _all_outputs(self, z: Tensor, inputs: Inputs) -> list[Tensor]:
        by_step, _ = self.read_steps(z)
        pooled = mean(z, self.pooling(inputs))
        return self.outputs(by_step, [pooled] * self.is_step.count(False))


def _head(model: spec.BuiltInModel, width: int, task: spec.Task) -> Head:
    if task.level == "step":
        return StepHead(width, task.head_width, model.dropout.heads)
    return WindowHead(width, task.head_width, model.projection, model.dropout.heads)
