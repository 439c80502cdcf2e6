"""The tasks' gradients written out: at the parts of z, or at the parameters that tasks share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

COLUMNS = 2**16
"""Columns of gradients in low precision that are converted to float32 at once."""


class Rows(NamedTuple):
    """The gradients of some tasks at one tensor."""

    tasks: tuple[int, ...]
    """[k], which tasks; the others' gradients are 0."""
    grads: Tensor
    """[k, …]."""


class DenseGradients(NamedTuple):
    """Gradients of K losses at several tensors, laid end to end in inner products."""

    at: Sequence[Rows]
    tasks: int
    """K."""
    device: torch.device
    scale: Tensor | None = None
    """What the losses were multiplied by; all that is returned here is without it."""

    def gram(self) -> Tensor:
        """Inner products [K, K] in float32, as a product in bf16 is off by 2e-3."""
        total = torch.zeros(self.tasks, self.tasks, device=self.device)
        for tasks, grads in self.at:
            for columns in _columns(grads):
                products = columns @ columns.mT
                if len(tasks) == self.tasks:
                    total += products
                else:
                    some = _index(tasks, self.device)
                    total[some[:, None], some] += products
        return total if self.scale is None else total / self.scale / self.scale

    def combined(self, weights: Tensor) -> list[Tensor]:
        """Σ_k w_k g_k at each tensor, for weights [K]."""
        weights = weights if self.scale is None else weights / self.scale
        sums = []
        for tasks, grads in self.at:
            few = len(tasks) < self.tasks
            mine = weights[_index(tasks, self.device)] if few else weights
            each = [mine @ columns for columns in _columns(grads)]
            sums.append((each[0] if len(each) == 1 else torch.cat(each)).view(grads.shape[1:]))
        return sums

    def of_task(self, task: int) -> list[Tensor]:
        """A task's gradient at each tensor."""
        each = [
            grads[tasks.index(task)].float() if task in tasks else _zero(grads)
            for tasks, grads in self.at
        ]
        return each if self.scale is None else [grad / self.scale for grad in each]


def _columns(grads: Tensor) -> Iterator[Tensor]:
    """Gradients [k, …] as matrices of float32, side by side."""
    flat = grads.flatten(1)
    if flat.dtype == torch.float32:
        yield flat
    else:
        for columns in flat.split(COLUMNS, 1):
            yield columns.float()


@cache
def _index(tasks: tuple[int, ...], device: torch.device) -> Tensor:
    """The tasks as an index. It is kept, as a new one would wait for the device at every step."""
    return torch.tensor(tasks, dtype=torch.int64, device=device)


def _zero(grads: Tensor) -> Tensor:
    return torch.zeros(grads.shape[1:], device=grads.device)
