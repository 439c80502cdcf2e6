"""The ways to every task's gradient: from its factors, at z, or at the parameters that tasks share.

Each computes losses and leaves two things: in `.grad` of a head's own parameters the gradients of
the unweighted losses, and each task's gradient where the tasks meet, which is z or the shared
parameters. What is to go further from there, the balancer decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from job.distributed.ranks import Ranks
from job.model.built_in import BuiltIn, mean
from job.model.heads import StepHead
from job.model.network import Inputs, Network
from job.train.gradients.dense import DenseGradients, Rows
from job.train.gradients.factored import Gradients, membership
from job.train.gradients.forks import Forks
from job.train.gradients.ownership import Ownership

Autocast = Callable[[], AbstractContextManager[None]]
LossesOf = Callable[[Sequence[Tensor]], tuple[list[Tensor], Tensor]]
"""Outputs by task → K losses in transformed units, each with its own graph, and [K] in original
ones."""


class Measurable(Protocol):
    """The gradients of K unweighted losses where the tasks meet."""

    def gram(self) -> Tensor:
        """Their inner products [K, K]."""

    def combined(self, weights: Tensor) -> list[Tensor]:
        """Σ_k w_k g_k at each tensor where they meet, for weights [K]."""

    def of_task(self, task: int) -> list[Tensor]:
        """A task's gradient at each of them."""


class Passed(NamedTuple):
    """What a route has computed of a batch."""

    losses: Tensor
    """[K], transformed units; with the heads' graph if several heads share parameters."""
    originals: Tensor
    """[K], original units."""
    meeting: Sequence[Tensor]
    """Where the tasks meet, with the graph below."""
    gradients: Measurable
    """At these tensors."""


class Route(Protocol):
    """Losses and gradients of a batch; losses are multiplied by the scale for the backward."""

    at: str
    """Where the tasks meet: "z" or "parameters"."""

    def __call__(self, inputs: Inputs, losses_of: LossesOf, scale: Tensor | None) -> Passed:
        """Forward, and backward down to where the tasks meet."""


class FactoredRoute:
    """Heads that are linear at each position of z, or read its mean (see `factored`)."""

    at = "z"

    def __init__(self, model: BuiltIn, autocast: Autocast) -> None:
        self.model, self.autocast = model, autocast
        outputs = [h.output.out_features if isinstance(h, StepHead) else 0 for h in model.heads]
        self.members = membership(outputs)

    def __call__(self, inputs: Inputs, losses_of: LossesOf, scale: Tensor | None) -> Passed:
        """Forward, and backward to the heads' outputs per position and their means of z."""
        with self.autocast():
            z = self.model.represent(inputs)
        pooling = self.model.pooling(inputs)
        losses, originals, gradients = self.backward(z.detach(), losses_of, scale, pooling)
        return Passed(losses, originals, [z], gradients)

    def backward(
        self,
        z: Tensor,
        losses_of: LossesOf,
        scale: Tensor | None,
        pooling: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Gradients]:
        """Losses [K] in transformed and original units, and gradients at a detached z."""
        if self.members.device != z.device:
            self.members = self.members.to(z.device)
        pooled = mean(z, pooling)
        means = [pooled.detach().requires_grad_() for step in self.model.is_step if not step]
        with self.autocast():
            by_step, rows = self.model.read_steps(z)
            outputs = self.model.outputs(by_step, means)
        if by_step.requires_grad:
            by_step.retain_grad()
        each, originals = losses_of(outputs)
        losses = torch.stack(each)
        (losses.sum() if scale is None else losses.sum() * scale).backward()

        read = [by_step, *means]
        at_outputs, *at_means = [
            (torch.zeros_like(x) if x.grad is None else x.grad).float() for x in read
        ]
        if scale is not None:
            torch._foreach_div_([at_outputs, *at_means], scale)
        if rows.shape[1]:
            at_rows = torch.cat([rows.detach().float(), *(m.unsqueeze(1) for m in at_means)], 1)
        else:  # task by task, as the Gram matrix multiplies them
            at_rows = torch.stack(at_means).transpose(0, 1)
        return losses.detach(), originals, Gradients(at_outputs, at_rows, self.members, pooling)


class DenseRoute:
    """Any heads: each reads its own row of z (see `forks`), and one backward fills all rows."""

    at = "z"

    def __init__(self, model: Network, known: Ownership, autocast: Autocast) -> None:
        self.model, self.readers, self.autocast = model, known.readers, autocast
        named = dict(model.named_parameters())
        self.of_heads = [named[name] for names in known.of_tasks for name in names]
        self.twice = bool(known.of_several)
        """Whether some parameters need a second backward, once the weights are known."""

    def __call__(self, inputs: Inputs, losses_of: LossesOf, scale: Tensor | None) -> Passed:
        """Forward, and backward to the rows of z."""
        count = len(self.model.tasks)
        with self.autocast():
            z = self.model.represent(inputs)
            forks = Forks(z, self.readers, count)
            outputs = self.model.read_each(forks.of_tasks, inputs)
        each, originals = losses_of(outputs)
        losses = torch.stack(each)
        total = losses.sum() if scale is None else losses.sum() * scale
        if self.twice:
            total.backward(retain_graph=True, inputs=[*forks.flat, *self.of_heads])
        else:
            total.backward()
            losses = losses.detach()
        gradients = DenseGradients(forks.rows(), count, losses.device, scale)
        return Passed(losses, originals, forks.measured, gradients)


class ParametersRoute:
    """Networks whose tasks meet at no z: one backward per task, to the parameters they share."""

    at = "parameters"

    def __init__(self, model: Network, known: Ownership, autocast: Autocast, ranks: Ranks) -> None:
        self.model, self.autocast, self.ranks = model, autocast, ranks
        named = dict(model.named_parameters())
        reached = [known.reached(k) for k in range(len(known.tasks))]
        self.own = [[named[name] for name in names] for names in known.of_tasks]
        self.shared = [named[name] for name in known.shared]
        self.readers = [
            tuple(k for k, each in enumerate(reached) if name in each) for name in known.shared
        ]

    def __call__(self, inputs: Inputs, losses_of: LossesOf, scale: Tensor | None) -> Passed:
        """Forward, and backward to the parameters, task by task."""
        with self.autocast():
            outputs = self.model(inputs)
        losses, originals = losses_of(outputs)
        each = [
            p.new_zeros(len(r), *p.shape) for p, r in zip(self.shared, self.readers, strict=True)
        ]
        for k, own in enumerate(self.own):
            mine = [i for i, tasks in enumerate(self.readers) if k in tasks]
            wanted = [*own, *(self.shared[i] for i in mine)]
            loss = losses[k] if scale is None else losses[k] * scale
            found = torch.autograd.grad(
                loss, wanted, retain_graph=k + 1 < len(self.own), allow_unused=True
            )
            for p, grad in zip(own, found, strict=False):
                add_gradient(p, grad)
            for i, grad in zip(mine, found[len(own) :], strict=True):
                if grad is not None:
                    each[i][self.readers[i].index(k)] = grad
        # A sum over the ranks' samples has to come first: squares of sums are not sums of squares.
        self.ranks.sum_(each)
        rows = [Rows(tasks, grads) for tasks, grads in zip(self.readers, each, strict=True)]
        values = torch.stack(losses).detach()
        gradients = DenseGradients(rows, len(self.own), values.device, scale)
        return Passed(values, originals, self.shared, gradients)


def add_gradient(parameter: Tensor, grad: Tensor | None) -> None:
    """Add to a parameter's gradient, as a backward does."""
    if grad is not None:
        parameter.grad = grad if parameter.grad is None else parameter.grad + grad


def build_route(model: Network, known: Ownership, autocast: Autocast, ranks: Ranks) -> Route:
    """The cheapest exact way for a network."""
    if isinstance(model, BuiltIn):
        return FactoredRoute(model, autocast)
    if known.at == "z":
        return DenseRoute(model, known, autocast)
    return ParametersRoute(model, known, autocast, ranks)
