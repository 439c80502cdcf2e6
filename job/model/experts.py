"""Mixtures of experts between trunk and heads: each task has a gate of its own.

An expert is a linear map with ReLU. A gate weighs experts by a softmax over a linear map of what it
reads. The cut z lies above the experts that all tasks read, so that their gradients meet there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from job import spec
from job.model.network import Z


class Experts(nn.Module):
    """Experts side by side."""

    def __init__(self, count: int, before: int, width: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(nn.Linear(before, width) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        """[B, …, D] → what each expert makes of it [B, …, E, W]."""
        return torch.stack([torch.relu(expert(x)) for expert in self.each], -2)


class Gate(nn.Module):
    """A softmax over experts."""

    def __init__(self, before: int, experts: int) -> None:
        super().__init__()
        self.map = nn.Linear(before, experts)

    def forward(self, x: Tensor, experts: Tensor) -> Tensor:
        """What it reads [B, …, D], and the experts [B, …, E, W] → their weighted mean [B, …, W]."""
        weights = torch.softmax(self.map(x), -1)
        mean: Tensor = (weights.unsqueeze(-1) * experts).sum(-2)
        return mean


class Mmoe(nn.Module):
    """Multi-gate mixture of experts (Ma et al. 2018, equations 6 and 7).

    Its gates read what the experts read, the trunk's output x. So z = (experts, x).
    """

    def __init__(self, section: spec.Mmoe, tasks: Sequence[str], before: int) -> None:
        super().__init__()
        self.experts = Experts(section.count, before, section.width)
        self.gates = nn.ModuleDict({f"task_{t}": Gate(before, section.count) for t in tasks})
        self.width = section.width

    def represent(self, x: Tensor) -> Z:
        """The trunk's output [B, …, D] → z."""
        return self.experts(x), x

    def read(self, task: str, z: Z) -> Tensor:
        """What a task reads of z [B, …, W]."""
        assert isinstance(z, tuple)
        experts, x = z
        read: Tensor = self.gates[f"task_{task}"](x, experts)
        return read


class _Level(nn.Module):
    """One extraction network: shared experts, and experts of each task."""

    def __init__(self, section: spec.Ple, tasks: Sequence[str], before: int, is_last: bool) -> None:
        super().__init__()
        names = [f"task_{task}" for task in tasks]
        own, seen = section.own, section.own + section.count
        self.shared = Experts(section.count, before, section.width)
        self.own = nn.ModuleDict({n: Experts(own, before, section.width) for n in names})
        self.gates = nn.ModuleDict({n: Gate(before, seen) for n in names})
        if not is_last:  # what the next level's shared experts read
            self.shared_gate = Gate(before, own * len(names) + section.count)

    def stream(self, name: str, x: Tensor, shared: Tensor) -> Tensor:
        """What a task reads [B, …, W]; x: its stream so far, shared: the shared experts."""
        experts = torch.cat([self.own[name](x), shared], -2)
        read: Tensor = self.gates[name](x, experts)
        return read


class Ple(nn.Module):
    """Progressive layered extraction (Tang et al. 2020, equations 4 to 7).

    z is what reaches the last level's gates: each task's stream before it, and the experts there
    that all tasks share. A task's own experts of that level belong to its head; those of lower
    levels get gradients from all tasks, through the shared stream, and belong to the trunk.
    """

    def __init__(self, section: spec.Ple, tasks: Sequence[str], before: int) -> None:
        super().__init__()
        self.names = [f"task_{task}" for task in tasks]
        widths = [before, *[section.width] * (section.levels - 1)]
        last = section.levels - 1
        self.each = [_Level(section, tasks, width, i == last) for i, width in enumerate(widths)]
        self.levels = nn.ModuleList(self.each)
        self.width = section.width

    def represent(self, x: Tensor) -> Z:
        """The trunk's output [B, …, D] → z."""
        streams, shared = dict.fromkeys(self.names, x), x
        *lower, last = self.each
        for level in lower:
            experts = level.shared(shared)
            own = [level.own[name](streams[name]) for name in self.names]
            after = {name: level.stream(name, streams[name], experts) for name in self.names}
            shared = level.shared_gate(shared, torch.cat([*own, experts], -2))
            streams = after
        above = last.shared(shared)
        return {"shared": above, "streams": streams if lower else x}

    def read(self, task: str, z: Z) -> Tensor:
        """What a task reads of z [B, …, W]."""
        assert isinstance(z, Mapping)
        name, streams, shared = f"task_{task}", z["streams"], z["shared"]
        x = streams[name] if isinstance(streams, Mapping) else streams
        assert isinstance(x, Tensor)
        assert isinstance(shared, Tensor)
        read: Tensor = self.each[-1].stream(name, x, shared)
        return read
