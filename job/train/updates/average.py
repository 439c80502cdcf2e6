"""A running average of a network, which is evaluated in its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of a network's parameters and running statistics.

    a ← d·a + (1 − d)·θ after each step, with d = min(decay, (1 + t) / (10 + t)) at step t, so that
    the start counts for little after a few steps. Parameters that do not train have no average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.places = decay, dict(_averaged(model))
        live = zip(self.places, self._live(), strict=True)
        self.tensors = {name: tensor.detach().clone() for name, tensor in live}
        """The averages, by the names that the network's tensors have."""

    @torch.no_grad()
    def update(self, step: int, skipped: Tensor) -> None:
        """Take in the network after a step, from 1, unless the flag `skipped` is set."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        weight = torch.where(skipped > 0, 0.0, share)
        averages = list(self.tensors.values())
        moves = torch._foreach_sub(self._live(), averages)
        torch._foreach_mul_(moves, weight)
        torch._foreach_add_(averages, moves)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it, the network is the average."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for live, average in zip(self._live(), self.tensors.values(), strict=True):
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)

    def _live(self) -> list[Tensor]:
        """The network's own tensors; a module may have put another one into a statistic's place."""
        return [getattr(module, name) for module, name in self.places.values()]


def _averaged(model: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, str]]]:
    """Parameters that train, and running statistics in floats: where they are, by name."""
    for name, p in model.named_parameters():
        if p.requires_grad:
            path, _, own = name.rpartition(".")
            yield name, (model.get_submodule(path), own)
    for prefix, module in model.named_modules():
        for name, _ in module.named_buffers(recurse=False):
            if name in ("running_mean", "running_var"):
                yield f"{prefix}.{name}", (module, name)
