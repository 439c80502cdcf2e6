"""The shared representation once for each task, so that one backward keeps their gradients apart.

A part of z is expanded to one row per task that reads it, which copies nothing, and each task gets
its row. One backward over the sum of the losses then leaves the rows' gradients [K, B, …] as one
tensor, which autograd itself stacks. An index per task, `rows[k]`, would write such a tensor of
zeros for each of them; `unbind` does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from job.model.network import Z, parts
from job.train.gradients.dense import Rows


def rebuilt(z: Z, tensors: Iterator[Tensor]) -> Z:
    """A z of the same structure, of other tensors in the order of `parts`."""
    if isinstance(z, Tensor):
        return next(tensors)
    if isinstance(z, Mapping):
        return {name: rebuilt(part, tensors) for name, part in z.items()}
    each: tuple[Z, ...] = tuple(rebuilt(part, tensors) for part in z)
    named: Callable[..., Z] | None = getattr(z, "_make", None)
    return each if named is None else named(each)


class Forks:
    """A detached z for each of K tasks."""

    def __init__(self, z: Z, readers: Mapping[int, Sequence[int]], tasks: int) -> None:
        """readers: by place of each measured part, the tasks known to read it.

        A task that reads a part against expectation has its gradient all the same.
        """
        detached = [part.detach() for part in parts(z)]
        mine = [list(detached) for _ in range(tasks)]
        self.measured = [parts(z)[i] for i in readers]
        """The parts of z, with their graph, that have gradients here."""
        self.leaves: list[list[tuple[list[int], Tensor]]] = []
        """By measured part, leaves [k, B, …] with the tasks of their k rows."""
        for i, known in readers.items():
            alone = [[k] for k in range(tasks) if k not in known]
            leaves = []
            for group in (list(known), *alone) if known else alone:
                leaf = detached[i].expand(len(group), *detached[i].shape).requires_grad_()
                for k, row in zip(group, leaf.unbind(), strict=True):
                    mine[k][i] = row
                leaves.append((group, leaf))
            self.leaves.append(leaves)
        self.of_tasks = [rebuilt(z, iter(each)) for each in mine]

    @property
    def flat(self) -> list[Tensor]:
        """All leaves."""
        return [leaf for leaves in self.leaves for _, leaf in leaves]

    def rows(self) -> list[Rows]:
        """The gradients of each measured part; the leaves no longer hold them."""
        return [_joined(leaves) for leaves in self.leaves]


def _joined(leaves: Sequence[tuple[list[int], Tensor]]) -> Rows:
    """The gradients of the leaves that have some, one row per task."""
    tasks: list[int] = []
    grads = []
    for group, leaf in leaves:
        if leaf.grad is not None:
            tasks += group
            grads.append(leaf.grad)
            leaf.grad = None
    if not grads:
        shape = leaves[0][1].shape[1:]
        return Rows((), leaves[0][1].new_zeros(0, *shape))
    order = sorted(range(len(tasks)), key=tasks.__getitem__)
    if order != list(range(len(tasks))):
        return Rows(tuple(sorted(tasks)), torch.cat(grads)[order])
    return Rows(tuple(tasks), grads[0] if len(grads) == 1 else torch.cat(grads))
