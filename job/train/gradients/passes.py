"""Forward and backward of a batch: into `.grad` of all parameters, measured or as a plain sum.

The parameters below z, or those that tasks share where there is no z, get Σ_k w_k g_k. So do those
that several heads share, above z. A parameter of one task alone gets w_k g_k, or g_k itself if the
balancer does not weigh heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from job.distributed.ranks import Ranks, Share
from job.model.losses import TaskLoss
from job.model.network import Inputs, Network
from job.train.gradients.elements import Elements
from job.train.gradients.given import Pairs, backward_from, gradients_from
from job.train.gradients.ownership import Ownership
from job.train.gradients.routes import LossesOf, Passed, add_gradient, build_route
from job.train.precision import LossScale

Weigh = Callable[[Tensor, Tensor | None], Tensor]
"""Losses [K] and their Gram matrix [K, K], if it was measured → weights [K]."""


class Batch(NamedTuple):
    """What a step is taken on: this rank's rows."""

    inputs: Inputs
    targets: Sequence[Tensor]
    share: Share | None
    """Which part of the batch these are; None if there is one process."""
    elements: Elements


class Filled(NamedTuple):
    """What is known once all gradients are there; of the whole batch, see Measured."""

    losses: Tensor
    originals: Tensor
    weights: Tensor
    gram: Tensor | None
    """None if it was not measured, like the norms."""
    head_norms: Tensor | None
    audit: Tensor | None


class Passes:
    """The passes of a batch through a network, over all ranks."""

    def __init__(
        self,
        model: Network,
        known: Ownership,
        losses: Sequence[TaskLoss],
        weighs_heads: bool,
        precision: str,
        loss_scale: LossScale | None,
        ranks: Ranks,
    ) -> None:
        self.model, self.losses, self.weighs_heads = model, losses, weighs_heads
        self.precision, self.loss_scale, self.ranks = precision, loss_scale, ranks
        self.route = build_route(model, known, self.autocast, ranks)
        # Walking the modules for these at every step would cost as much as the Gram matrix.
        named = dict(model.named_parameters())
        self.below = [named[name] for name in known.below]
        self.of_heads = [[named[name] for name in names] for names in known.of_tasks]
        self.of_several = [named[name] for name in known.of_several]
        self.output_weights = [_output_weight(own) for own in self.of_heads]
        self.some = next(iter(named.values()))
        """Any parameter; it is where the network is."""

    def measured(self, batch: Batch, weigh: Weigh, audit: bool) -> Filled:
        """Fill all gradients, with each task's measured on the way."""
        passed = self.route(batch.inputs, self.losses_of(batch), self._scale)
        live, meeting, originals = passed.losses, passed.meeting, passed.originals
        losses = live.detach().clone() if self.of_several else live
        gram = passed.gradients.gram()
        in_heads = filled(p for own in self.of_heads for p in own)
        at_z = self.route.at == "z"
        if batch.share is not None:  # gradients at parameters are already those of all ranks
            self.ranks.sum_([losses, originals, *([gram] if at_z else []), *in_heads])
        norms = self._head_norms()
        weights = weigh(losses, gram)
        exact = self._audit(passed, gram) if audit else None
        to_below = passed.gradients.combined(self._scaled(weights))
        del passed  # so that the tasks' gradients take no memory during the trunk's backward
        if pairs := with_graph(meeting, to_below):
            backward_from(pairs)
        if self.of_several:
            self._meet_in_heads(live, weights)
        if batch.share is not None:
            self.ranks.sum_([*(filled(self.below) if at_z else []), *filled(self.of_several)])
        if self.weighs_heads:
            for weight, own in zip(weights.unbind(), self.of_heads, strict=True):
                if own:
                    torch._foreach_mul_(filled(own), weight)
        return Filled(losses, originals, weights, gram, norms, exact)

    def plain(self, batch: Batch, weigh: Weigh, audit: bool) -> Filled:
        """Fill all gradients as those of a weighted sum of the losses."""
        with self.autocast():
            outputs = self.model(batch.inputs)
        each, originals = self.losses_of(batch)(outputs)
        live = torch.stack(each)
        losses = live.detach().clone()
        if batch.share is not None:
            self.ranks.sum_([losses, originals])
        weights = weigh(losses, None)
        exact = self._audit_plain(each) if audit else None
        own = [p for parameters in self.of_heads for p in parameters]
        shared = [*self.below, *self.of_several]
        if self.weighs_heads or not own:
            self._scaled(live * weights).sum().backward()
        else:
            if shared:
                self._scaled(live * weights).sum().backward(retain_graph=True, inputs=shared)
            self._scaled(live).sum().backward(inputs=own)
        if batch.share is not None:
            self.ranks.sum_(filled([*shared, *own]))
        return Filled(losses, originals, weights, None, None, exact)

    def autocast(self) -> torch.autocast | nullcontext[None]:
        """The context of every forward."""
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.some.device.type, dtype)

    def losses_of(self, batch: Batch) -> LossesOf:
        """What makes K losses of outputs: this rank's part of those of the batch."""
        elements = batch.elements

        def losses_of(outputs: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
            rows = zip(
                *(self.losses, outputs, batch.targets, elements.shared, elements.known),
                strict=True,
            )
            losses, others = zip(*(loss(*given) for loss, *given in rows), strict=True)
            originals, part = torch.stack(others), elements.of_rank
            if part is None:
                return list(losses), originals
            parts = part.unbind() if isinstance(part, Tensor) else [part] * len(losses)
            return [x * p for x, p in zip(losses, parts, strict=True)], originals * part

        return losses_of

    @property
    def _scale(self) -> Tensor | None:
        return None if self.loss_scale is None else self.loss_scale.scale

    def _scaled(self, values: Tensor) -> Tensor:
        return values if self.loss_scale is None else values * self.loss_scale.scale

    def _unscaled(self, values: Tensor) -> Tensor:
        return values if self.loss_scale is None else values / self.loss_scale.scale

    def _zero(self) -> Tensor:
        return torch.zeros((), device=self.some.device)

    def _meet_in_heads(self, losses: Tensor, weights: Tensor) -> None:
        """Fill the gradients of the parameters that several heads share, by a second backward."""
        total = self._scaled(losses * weights).sum()
        grads = torch.autograd.grad(total, self.of_several, allow_unused=True)
        for p, grad in zip(self.of_several, grads, strict=True):
            add_gradient(p, grad)

    def _head_norms(self) -> Tensor:
        """Norms [K] at the output weights; 0 for a task that has none of its own."""
        given = filled(weight for weight in self.output_weights if weight is not None)
        norms = iter(torch._foreach_norm(given) if given else ())
        each = [self._zero() if weight is None else next(norms) for weight in self.output_weights]
        return self._unscaled(torch.stack(each))

    def _audit(self, passed: Passed, gram: Tensor) -> Tensor:
        """Norms [K] of each unweighted loss's gradient on all parameters below."""
        if self.route.at == "parameters":
            return gram.diagonal().clamp(min=0).sqrt()
        norms = []
        for k in range(len(self.losses)):
            each = [self._scaled(grad) for grad in passed.gradients.of_task(k)]
            pairs = with_graph(passed.meeting, each)
            norms.append(self._norm_below(pairs) if pairs else self._zero())
        return self._unscaled(torch.stack(norms))

    def _audit_plain(self, losses: Sequence[Tensor]) -> Tensor:
        """The same, from K losses with their whole graph."""
        scaled = [self._scaled(loss) for loss in losses]
        norms = [self._norm_below([(x, torch.ones_like(x))]) for x in scaled]
        return self._unscaled(torch.stack(norms))

    def _norm_below(self, pairs: Pairs) -> Tensor:
        """Norm of the gradient at the parameters below; keeps the graph."""
        if not self.below:
            return self._zero()
        each = self._at_below(pairs)
        self.ranks.sum_(each)
        norm: Tensor = torch.stack(torch._foreach_norm(each)).norm()
        return norm

    def _at_below(self, pairs: Pairs) -> list[Tensor]:
        """The gradient at the parameters below, from gradients above; keeps the graph."""
        found = zip(self.below, gradients_from(pairs, self.below), strict=True)
        return [torch.zeros_like(p) if grad is None else grad for p, grad in found]


def with_graph(at: Sequence[Tensor], grads: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Tensors that something below learns from, with their gradients in the tensors' types."""
    pairs = zip(at, grads, strict=True)
    return [(x, grad.to(x.dtype)) for x, grad in pairs if x.requires_grad]


def filled(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The parameters' gradients, 0 where autograd has left none: ranks must have the same ones."""
    grads = []
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        grads.append(p.grad)
    return grads


def _output_weight(own: Sequence[Tensor]) -> Tensor | None:
    """Of the parameters of one task alone, the last matrix, or else the last; None if none is."""
    matrices = [p for p in own if p.dim() > 1]
    return ([None, *own, *matrices])[-1]
