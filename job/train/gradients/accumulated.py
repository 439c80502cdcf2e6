"""The passes of a batch that is computed in parts, as if it were one.

Losses, Gram matrix and gradients of the batch are sums over its parts, as each element's share in
the batch's mean is known before. A part's backward through the trunk needs the tasks' weights,
though, and those may depend on losses or gradients of all parts. Either the weights are given, or
all parts are computed twice: for the weights, and with them. Nothing is communicated between parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from job.distributed.ranks import ALONE, Ranks
from job.model.losses import TaskLoss
from job.model.network import Network
from job.train.gradients.dense import DenseGradients, Rows
from job.train.gradients.given import Pairs, backward_from
from job.train.gradients.ownership import Ownership
from job.train.gradients.passes import Batch, Filled, Passes, Weigh, filled, with_graph
from job.train.gradients.routes import build_route
from job.train.precision import LossScale


class AccumulatedPasses(Passes):
    """The passes of a batch's parts through a network, over all ranks."""

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
        super().__init__(model, known, losses, weighs_heads, precision, loss_scale, ranks)
        self.route = build_route(model, known, self.autocast, ALONE)
        self.noise: Tensor | None = None
        """[2], of the last batch, if it had parts: the variance of a sample's gradient, and the
        gradient's square."""

    def fill(
        self,
        parts: Sequence[Batch],
        weigh: Weigh,
        weights: Tensor | None,
        measuring: bool,
        audit: bool,
    ) -> Filled:
        """Fill all gradients, with each task's measured on the way if `measuring`.

        weights: [K] of the tasks; None: those that `weigh` makes of this very batch.
        """
        self.noise = None
        if measuring and self.route.at == "parameters":
            return self._at_parameters(parts, weigh, weights)
        if weights is None:
            weights = weigh(*self._ahead(parts, measuring))
        count = len(self.losses)
        losses, originals = (torch.zeros(2, count, device=self.some.device)).unbind()
        gram = torch.zeros(count, count, device=self.some.device) if measuring else None
        exact = [[torch.zeros_like(p) for p in self.below] for _ in range(count if audit else 0)]
        squares: list[Tensor] = []
        for part in parts:
            before = [None if p.grad is None else p.grad.clone() for p in self.below]
            each = self._one(part, weights, measuring, exact)
            losses, originals = losses + each.losses, originals + each.originals
            gram = gram + each.gram if gram is not None and each.gram is not None else None
            squares.append(self._square(before))
        own = [p for parameters in self.of_heads for p in parameters]
        sums = [] if gram is None else [gram]
        grads = filled([*self.below, *self.of_several, *own])
        self.ranks.sum_([losses, originals, *sums, *grads, *(g for task in exact for g in task)])
        if len(parts) > 1:
            self._measure_noise(parts, squares)
        norms = self._head_norms() if measuring else None
        self._weigh_heads(weights)
        audited = [torch.stack(torch._foreach_norm(g)).norm() if g else self._zero() for g in exact]
        found = self._unscaled(torch.stack(audited)) if audit else None
        return Filled(losses, originals, weights, gram, norms, found)

    def _one(
        self, part: Batch, weights: Tensor, measuring: bool, exact: Sequence[Sequence[Tensor]]
    ) -> Filled:
        """Add a part's gradients, the heads' unweighted; `exact`: see `_add_exact`."""
        self._begin(part)
        losses_of = self.losses_of(part)
        if not measuring:
            with self.autocast():
                outputs = self.model(part.inputs)
            each, originals = losses_of(outputs)
            live = torch.stack(each)
            scalars = [self._scaled(x) for x in each]
            self._add_exact(exact, [[(x, torch.ones_like(x))] for x in scalars])
            own = [p for parameters in self.of_heads for p in parameters]
            shared = [*self.below, *self.of_several]
            if shared:
                total = self._scaled(live * weights).sum()
                total.backward(retain_graph=bool(own), inputs=shared)
            if own:
                self._scaled(live).sum().backward(inputs=own)
            return Filled(live.detach(), originals, weights, None, None, None)
        passed = self.route(part.inputs, losses_of, self._scale)
        live, meeting, originals = passed.losses, passed.meeting, passed.originals
        gram = passed.gradients.gram()
        if exact:
            scaled = [
                with_graph(meeting, [self._scaled(g) for g in passed.gradients.of_task(k)])
                for k in range(len(exact))
            ]
            self._add_exact(exact, [pairs for pairs in scaled if pairs])
        to_below = passed.gradients.combined(self._scaled(weights))
        del passed  # so that the tasks' gradients take no memory during the trunk's backward
        if pairs := with_graph(meeting, to_below):
            backward_from(pairs)
        if self.of_several:
            self._meet_in_heads(live, weights)
        return Filled(live.detach(), originals, weights, gram, None, None)

    def _at_parameters(
        self, parts: Sequence[Batch], weigh: Weigh, weights: Tensor | None
    ) -> Filled:
        """The same where tasks meet at parameters: their gradients are summed, then compared."""
        losses, originals = torch.zeros(2, len(self.losses), device=self.some.device).unbind()
        sums: list[Rows] = []
        for part in parts:
            self._begin(part)
            passed = self.route(part.inputs, self.losses_of(part), self._scale)
            losses, originals = losses + passed.losses, originals + passed.originals
            assert isinstance(passed.gradients, DenseGradients)
            new = passed.gradients.at
            pairs = zip(sums, new, strict=True) if sums else ()
            sums = [Rows(a.tasks, a.grads + b.grads) for a, b in pairs] or list(new)
        in_heads = filled(p for own in self.of_heads for p in own)
        self.ranks.sum_([losses, originals, *in_heads, *(rows.grads for rows in sums)])
        gradients = DenseGradients(sums, len(self.losses), losses.device, self._scale)
        gram, norms = gradients.gram(), self._head_norms()
        weights = weigh(losses, gram) if weights is None else weights
        to_below = gradients.combined(self._scaled(weights))
        for p, grad in zip(self.below, to_below, strict=True):
            p.grad = grad
        self._weigh_heads(weights)
        exact = gram.diagonal().clamp(min=0).sqrt()
        return Filled(losses, originals, weights, gram, norms, exact)

    def _ahead(self, parts: Sequence[Batch], measuring: bool) -> tuple[Tensor, Tensor | None]:
        """Losses [K] and Gram matrix [K, K] of a batch, with nothing left behind."""
        count = len(self.losses)
        losses = torch.zeros(count, device=self.some.device)
        gram = torch.zeros(count, count, device=self.some.device)
        with self._as_before():
            for part in parts:
                self._begin(part)
                if measuring:
                    passed = self.route(part.inputs, self.losses_of(part), self._scale)
                    losses, gram = losses + passed.losses.detach(), gram + passed.gradients.gram()
                else:
                    with torch.no_grad(), self.autocast():
                        outputs = self.model(part.inputs)
                    losses = losses + torch.stack(self.losses_of(part)(outputs)[0])
        self.ranks.sum_([losses, gram])
        return losses, gram if measuring else None

    @contextmanager
    def _as_before(self) -> Iterator[None]:
        """Afterwards, gradients, buffers and generators are as before."""
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        device = self.some.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
        with torch.no_grad():
            for name, before in buffers.items():
                self.model.get_buffer(name).copy_(before)
        for p in self.model.parameters():
            p.grad = None

    def _begin(self, part: Batch) -> None:
        if part.share is not None:
            self.model.begin_batch(part.share)

    def _add_exact(self, exact: Sequence[Sequence[Tensor]], of_tasks: Sequence[Pairs]) -> None:
        """Add each task's gradient at the parameters below to [K] lists of them."""
        if not self.below or not exact:
            return
        for sums, pairs in zip(exact, of_tasks, strict=bool(of_tasks)):
            for total, grad in zip(sums, self._at_below(pairs), strict=True):
                total += grad

    def _weigh_heads(self, weights: Tensor) -> None:
        if self.weighs_heads:
            for weight, own in zip(weights.unbind(), self.of_heads, strict=True):
                if own:
                    torch._foreach_mul_(filled(own), weight)

    def _square(self, before: Sequence[Tensor | None]) -> Tensor:
        """The squared norm of what the parameters below have got since."""
        squares = self._zero()
        for p, old in zip(self.below, before, strict=True):
            if p.grad is not None:
                squares = squares + (p.grad if old is None else p.grad - old).square().sum()
        return squares

    def _measure_noise(self, parts: Sequence[Batch], squares: Sequence[Tensor]) -> None:
        """Measure the gradient's noise below z (McCandlish et al. 2018, appendix A.1).

        A mean over n samples has E|g_n|² = |G|² + S/n. The parts of all ranks are the small
        batches, their sum is the large one.
        """
        sizes = [len(part.targets[0]) for part in parts]
        alone = [1.0 if part.share is None else float(part.share.weight > 0) for part in parts]
        whole = sum(len(p.targets[0]) if p.share is None else p.share.of for p in parts)
        own = [(whole / n) ** 2 * square for n, square in zip(sizes, squares, strict=True)]
        small = torch.stack([x * a for x, a in zip(own, alone, strict=True)]).sum()
        inverse = sum(a / n for n, a in zip(sizes, alone, strict=True))
        # Filled on the device: a copy from the host would wait for it.
        counts = [torch.full_like(small, value) for value in (inverse, sum(alone))]
        table = torch.stack([small, *counts])
        self.ranks.sum_([table])
        small, inverses = table[:2] / table[2]
        large = self._zero()
        for grad in filled(self.below):
            large = large + grad.square().sum()
        small, large = self._unscaled(self._unscaled(small)), self._unscaled(self._unscaled(large))
        variance = (small - large) / (inverses - 1 / whole)
        self.noise = torch.stack([variance, large - variance / whole])
