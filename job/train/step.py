"""One training step, with each task's exact gradient at the shared representation z.

    inputs ───▶ trunk ─▶ z ┊▶ heads ─▶ loss of each task ─▶ its gradient at z ─┐
                           ┊                                 Gram matrix [K, K] ├▶ balancer ─▶ w
                           ◀──────── Σ_k w_k ∂L_k/∂z ◀───────────────────────── ┘

The heads read a detached z. One backward over the sum of the losses stops at the heads, and leaves
each task's gradient at z (job.train.gradients). The weighted combination then goes through the
trunk once. A parameter of one head gets that task's gradient times its weight, if the balancer
weighs heads; one that several heads share gets the weighted combination, by a second backward.
Nothing here waits for the device: measurements stay on it until the ledger fetches them.

Where the tasks meet at no z, they are measured at the parameters that they share, at every n-th
step. The steps between are those of a plain weighted sum, with the weights of the last measurement.

If several ranks share the batch (job.distributed.ranks), each backward is followed by a sum over
the ranks. Everything between the two backwards is then the same on every rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from job.balance.base import Balancer, kept_where_absent
from job.distributed.ranks import ALONE, Ranks, Share
from job.model.losses import TaskLoss
from job.model.network import Inputs, Network
from job.train.gradients.accumulated import AccumulatedPasses
from job.train.gradients.elements import Part, weigh_parts
from job.train.gradients.ownership import Ownership
from job.train.gradients.passes import Batch, Filled, Passes, Weigh
from job.train.precision import LossScale, flag_not_finite


class Measured(NamedTuple):
    """What one step measured, on the device. Gradients are of the unweighted losses."""

    losses: Tensor
    """[K], transformed units."""
    originals: Tensor
    """[K], original units."""
    weights: Tensor
    """[K]."""
    gram: Tensor
    """[K, K], inner products of the tasks' gradients at z, or at the parameters they share."""
    head_norms: Tensor
    """[K], gradient norms at the heads' output weights: a task's own last matrix."""
    skipped: Tensor
    """0/1: the update was not applied."""
    halted: Tensor
    """0/1: this step or an earlier one was not finite; no later update is applied either."""
    audit: Tensor | None
    """[K], exact gradient norms on the trunk's parameters; None if not asked for."""
    labelled: Tensor | None = None
    """[K], numbers of elements that count; None if all elements of all tasks do."""
    measured_at: Tensor | None = None
    """The step at which `gram` and `head_norms` were measured, 0 if at none; None: at this one."""


EVERY = 20
"""Steps between measurements at shared parameters, which cost a backward for each task."""


class _Flags(NamedTuple):
    """0/1, on the device."""

    fatal: Tensor
    """A loss is not finite."""
    skipped: Tensor
    """Something is not finite: the update must not be applied."""


class Stepper(nn.Module):
    """Takes training steps of a network under a balancer. Its buffers belong to the run's state."""

    one: Tensor
    halted: Tensor
    held_weights: Tensor
    held_gram: Tensor
    held_norms: Tensor
    measured_at: Tensor
    noise: Tensor
    """[2], sums over the epoch's steps: the variance of a sample's gradient at the parameters below
    z, and the gradient's square (McCandlish et al. 2018, appendix A.1)."""

    def __init__(
        self,
        model: Network,
        known: Ownership,
        losses: Sequence[TaskLoss],
        balancer: Balancer,
        clip: float | None = None,
        precision: str = "fp32",
        loss_scale: LossScale | None = None,
        ranks: Ranks = ALONE,
        every: int | None = None,
        accumulate: Literal["previous", "exact"] | None = None,
        compiled: Network | None = None,
    ) -> None:
        """Build it for a network of which it is known what learns from which task.

        every: steps between measurements of gradients; None: 1 at z, EVERY at shared parameters.
        accumulate: of batches in parts, which weights they train with: those of the batch before,
        or their own. compiled: the network with compiled parts, on the same parameters.
        """
        super().__init__()
        self.model, self.known, self.balancer, self.ranks = model, known, balancer, ranks
        self.losses = nn.ModuleList(losses)
        self.of_tasks = list(losses)  # the same, with their type
        self.clip, self.precision = clip, precision
        self.loss_scale = loss_scale or (LossScale() if precision == "fp16" else None)
        self.accumulate = accumulate
        self.passes = (Passes if accumulate is None else AccumulatedPasses)(
            *(compiled or model, known, self.of_tasks, balancer.weighs_heads),
            *(precision, self.loss_scale, ranks),
        )
        self.every = every or (1 if known.at == "z" else EVERY)
        self.register_buffer("one", torch.tensor(1.0), persistent=False)
        self.register_buffer("halted", torch.tensor(0.0))
        count, kept = len(losses), self.every > 1 or accumulate is not None
        self.register_buffer("held_weights", torch.ones(count), persistent=kept)
        self.register_buffer("held_gram", torch.zeros(count, count), persistent=kept)
        self.register_buffer("held_norms", torch.zeros(count), persistent=kept)
        self.register_buffer("measured_at", torch.tensor(0.0), persistent=kept)
        noise = accumulate is not None
        self.register_buffer("noise", torch.zeros(2, dtype=torch.float64), persistent=noise)

    def forward(
        self,
        inputs: Inputs,
        targets: Sequence[Tensor],
        optimizer: torch.optim.Optimizer,
        audit: bool = False,
        share: Share | None = None,
        of_samples: Sequence[Tensor | None] | None = None,
        step: int = 1,
    ) -> Measured:
        """Take one step on inputs and per-task targets (see job.data.dataset.Split).

        share: the part of the batch that these rows are, if other ranks have the rest.
        of_samples: per task, the samples' weights [B], if they have some. step: its number, from 1,
        which says whether gradients are measured.
        """
        return self.update([Part(inputs, targets, share, of_samples)], optimizer, audit, step)

    def update(
        self, parts: Sequence[Part], optimizer: torch.optim.Optimizer, audit: bool, step: int
    ) -> Measured:
        """Take one step on a batch in parts; in one, unless it was built to accumulate."""
        optimizer.zero_grad(set_to_none=True)
        # A wrapper, such as Lightning's, hands on `step`, but neither state nor attributes.
        bare: Any = getattr(optimizer, "optimizer", optimizer)
        elements = weigh_parts(self.of_tasks, parts, self.ranks)
        batch = [
            Batch(part.inputs, part.targets, part.share, each)
            for part, each in zip(parts, elements, strict=True)
        ]
        present, labelled = elements[0].present, elements[0].labelled
        learned = [] if self.loss_scale is None else [b.clone() for b in self.balancer.buffers()]
        done, next_weights = self._fill(batch, partial(self._weigh, present), step, audit)
        flags = self._flags(done)
        self._finish_gradients(bare, done.losses, flags.skipped, present)
        idle = self._idle(bare, present)
        self._settle(flags, learned)
        bare.found_inf = flags.skipped  # fused optimizers read it, on the device
        optimizer.step()
        for now, before in idle:
            now.copy_(kept_where_absent(present, now, before))
        if self.balancer.observes:
            self._observe(batch, flags.skipped)
        if self.every > 1 or self.accumulate:
            self._hold(done, next_weights, step, flags.skipped, present)
        return self._measured(done, flags.skipped, labelled)

    def _fill(
        self, batch: Sequence[Batch], weigh: Weigh, step: int, audit: bool
    ) -> tuple[Filled, Tensor]:
        """Fill all gradients; also returns the weights [K] that the next batch may train with."""
        measuring = (step - 1) % self.every == 0
        if not isinstance(self.passes, AccumulatedPasses):
            (whole,) = batch
            if whole.share is not None:
                self.model.begin_batch(whole.share)
            fill = self.passes.measured if measuring else self.passes.plain
            done = fill(whole, weigh, audit)
            return done, done.weights
        own = self.accumulate == "exact" or step == 1  # before the first there are none
        weights = None if own else self.held_weights.clone()
        done = self.passes.fill(batch, weigh, weights, measuring, audit)
        return done, done.weights if own else weigh(done.losses, done.gram)

    def _weigh(self, present: Tensor | None, losses: Tensor, gram: Tensor | None) -> Tensor:
        """The balancer's weights, or those of the last measurement if it needs one."""
        if gram is None and self.balancer.reads_gram:
            return self.held_weights.clone()
        weights: Tensor = self.balancer(losses, self.held_gram if gram is None else gram, present)
        return weights

    def _hold(
        self,
        done: Filled,
        weights: Tensor,
        step: int,
        skipped: Tensor,
        present: Tensor | None,
    ) -> None:
        """Keep measurements for the steps until the next, unless the update was skipped.

        weights: [K]; a task without a label in the batch keeps the one that it has.
        """
        noise = self.passes.noise if isinstance(self.passes, AccumulatedPasses) else None
        if noise is not None:
            self.noise += torch.where(skipped > 0, 0.0, noise.double())
        if done.gram is None or done.head_norms is None:
            if self.accumulate:
                now = kept_where_absent(present, weights, self.held_weights)
                self.held_weights.copy_(torch.where(skipped > 0, self.held_weights, now))
            return
        for held, now in (
            (self.held_weights, kept_where_absent(present, weights, self.held_weights)),
            (self.held_gram, done.gram),
            (self.held_norms, done.head_norms),
            (self.measured_at, torch.full_like(self.measured_at, step)),
        ):
            held.copy_(torch.where(skipped > 0, held, now))

    def _measured(self, done: Filled, skipped: Tensor, labelled: Tensor | None) -> Measured:
        gram, norms = done.gram, done.head_norms
        if gram is None or norms is None:
            gram, norms = self.held_gram.clone(), self.held_norms.clone()
        return Measured(
            *(done.losses, done.originals, done.weights, gram, norms),
            *(skipped, self.halted.clone(), done.audit, labelled),
            None if self.every == 1 else self.measured_at.clone(),
        )

    def _flags(self, done: Filled) -> _Flags:
        """Whether losses and Gram matrix are finite. Other gradients may set `skipped`."""
        grams = [] if done.gram is None else [done.gram]
        fatal = self.halted.clone()
        if self.loss_scale is None:  # then whatever is not finite is fatal
            flag_not_finite([done.losses, *grams], fatal, self.one)
            return _Flags(fatal, fatal)
        flag_not_finite([done.losses], fatal, self.one)
        skipped = fatal.clone()
        if grams:
            flag_not_finite(grams, skipped, self.one)
        return _Flags(fatal, skipped)

    def _finish_gradients(
        self,
        optimizer: torch.optim.Optimizer,
        losses: Tensor,
        skipped: Tensor,
        present: Tensor | None,
    ) -> None:
        """Add the balancer's own gradients, unscale and clip all.

        Sets the flag `skipped` if any of them is not finite. present: see Elements.
        """
        objective = self.balancer.objective(losses)
        if objective is not None:
            scale = self.loss_scale
            (objective if scale is None else objective * scale.scale).backward()
        if present is not None:
            for grad in _grads(self.balancer.parameters()):
                grad.copy_(torch.where(present, grad, 0.0))
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        grads = _grads(trained)
        scale = self.loss_scale
        flag_not_finite(grads, skipped, self.one if scale is None else 1 / scale.scale)
        if self.clip is not None:
            norm = torch.nn.utils.get_total_norm(grads, foreach=True)
            torch.nn.utils.clip_grads_with_norm_(trained, self.clip, norm, foreach=True)

    def _idle(
        self, optimizer: torch.optim.Optimizer, present: Tensor | None
    ) -> list[tuple[Tensor, Tensor]]:
        """The balancer's parameters and their moments, each [K], with copies.

        An update must not change them for a task without a label in the batch.
        """
        if present is None:
            return []
        tensors = [
            each
            for p in self.balancer.parameters()
            for each in (p.data, *(v for v in optimizer.state[p].values() if v.shape == p.shape))
        ]
        return [(each, each.clone()) for each in tensors]

    def _settle(self, flags: _Flags, learned: list[Tensor]) -> None:
        """Decide whether the run halts, and on the loss scale; the update follows.

        A loss that is not finite halts the run. So does a gradient, unless a smaller loss scale
        may still help: then the balancer's state before this step, `learned`, is put back.
        """
        fatal, skipped = flags
        if self.loss_scale is None:
            self.halted.copy_(skipped)
        else:
            self.halted.copy_(torch.where(self.loss_scale.scale >= 1, fatal, skipped))
            self.loss_scale.update(skipped > 0)
            for now, before in zip(self.balancer.buffers(), learned, strict=True):
                now.copy_(torch.where(skipped > 0, before, now))

    @torch.no_grad()
    def _observe(self, batch: Sequence[Batch], skipped: Tensor) -> None:
        """Give the balancer the batch's losses after the update, unless that was skipped."""
        each = []
        for part in batch:
            if len(batch) > 1 and part.share is not None:
                self.model.begin_batch(part.share)
            with self.passes.autocast():
                outputs = self.model(part.inputs)
            each.append(torch.stack(self.passes.losses_of(part)(outputs)[0]))
        losses = each[0] if len(each) == 1 else torch.stack(each).sum(0)
        if batch[0].share is not None:
            self.ranks.sum_([losses])
        before = [b.clone() for b in self.balancer.buffers()]
        self.balancer.observe(losses, batch[0].elements.present)
        for now, old in zip(self.balancer.buffers(), before, strict=True):
            now.copy_(torch.where(skipped > 0, old, now))


def _grads(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
