"""What every network is: a trunk, its shared representation z, and one head per task.

    inputs ─▶ trunk ─▶ z ─▶ head of each task ─▶ outputs

The ledger measures each task's gradient at z, so z is what all tasks read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Self

from torch import Tensor, nn

from job.distributed.ranks import Share
from job.model.scaling import Scaling
from job.model.start.frozen import keep_still

Inputs = Mapping[str, Tensor]
"""Every named input of a batch, [B, …]; if some positions are padding, also `mask`, bool [B, …],
which is false there (job.data.encoding.input_info.MASK)."""
Z = Tensor | tuple["Z", ...] | Mapping[str, "Z"]
"""The shared representation: tensors, batch first. Those of floats are measured; masks, lengths and
indices pass through."""


class Network(nn.Module):
    """A trunk and heads, for the tasks of these names. One without a z defines `forward` alone."""

    place = "$.model"
    """Where its faults are, for messages."""

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = list(tasks)

    def represent(self, inputs: Inputs) -> Z:
        """The shared representation z of a batch."""
        raise NotImplementedError

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        """What the head of a task makes of z: [B, O], or [B, …, O] for a task of positions."""
        raise NotImplementedError

    def forward(self, inputs: Inputs) -> list[Tensor]:
        """The outputs of every task, in their order."""
        return self.read_each([self.represent(inputs)] * len(self.tasks), inputs)

    def read_each(self, each: Sequence[Z], inputs: Inputs) -> list[Tensor]:
        """What the tasks' heads make of z, which each gets as a tensor of its own."""
        return [self.read(task, z, inputs) for task, z in zip(self.tasks, each, strict=True)]

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules; those that are frozen as a whole stay in evaluation mode."""
        super().train(mode)
        keep_still(self)
        return self

    def start_at(self, task: str, outputs: Tensor) -> None:
        """Make the outputs of a task about these [O] at the start, if the network knows how to."""

    @property
    def scalings(self) -> Mapping[str, Scaling]:
        """The scaling of each input of numbers, if they are scaled."""
        return {}

    def blamed(self) -> AbstractContextManager[None]:
        """In it, what fails in forward or backward is an InputError if the network is one's own."""
        return nullcontext()

    def begin_batch(self, share: Share | None) -> None:
        """Set this rank's part of the next batch; None if this process has all of it."""


def parts(z: Z) -> list[Tensor]:
    """The tensors of z, in a fixed order."""
    if isinstance(z, Tensor):
        return [z]
    each = z.values() if isinstance(z, Mapping) else z
    return [tensor for part in each for tensor in parts(part)]
