"""One training step, and the exact gradient that each task gives the shared representation.

    features ─▶ trunk ─▶ z ┊▶ heads ─▶ loss of each task ─▶ its gradient at z ─┐
                           ┊                                 Gram matrix [K, K] ├▶ balancer ─▶ w
                           ◀──────── Σ_k w_k ∂L_k/∂z ◀───────────────────────── ┘

The heads read a detached z. One backward over the sum of the losses reaches every head and stops
there, leaving exactly what each task's gradient at z is made of (job.gradients); the weighted
combination then goes through the trunk once. Nothing here waits for the device: what a step
measures stays there until the ledger fetches it.

Where several ranks share the batch (job.ranks), each backward is followed by a sum over them: all
that stands between the two is then the same on every rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from job.balance import Balancer
from job.gradients import Gradients, membership
from job.model import Jade, StepHead
from job.precision import LossScale, flag_not_finite
from job.ranks import ALONE, Ranks, Share
from job.tasks import TaskLoss


class Measured(NamedTuple):
    """What one step measured, on the device. Gradients are of the unweighted losses."""

    losses: Tensor
    """[K], transformed units."""
    originals: Tensor
    """[K], original units."""
    weights: Tensor
    """[K]."""
    gram: Tensor
    """[K, K], inner products of the tasks' gradients at z."""
    head_norms: Tensor
    """[K], gradient norms at the heads' output weights."""
    skipped: Tensor
    """0/1: the update was not applied."""
    halted: Tensor
    """0/1: this step or an earlier one was not finite; no later update is applied either."""
    audit: Tensor | None
    """[K], exact gradient norms on the trunk's parameters, where asked for."""


class Stepper(nn.Module):
    """Training steps of a network under a balancer. Its buffers are part of the run's state."""

    members: Tensor
    one: Tensor
    halted: Tensor

    def __init__(
        self,
        model: Jade,
        losses: Sequence[TaskLoss],
        balancer: Balancer,
        clip: float | None = None,
        precision: str = "fp32",
        loss_scale: LossScale | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        self.model, self.balancer, self.ranks = model, balancer, ranks
        self.losses = nn.ModuleList(losses)
        self.clip, self.precision = clip, precision
        self.loss_scale = loss_scale or (LossScale() if precision == "fp16" else None)
        outputs = [h.output.out_features if isinstance(h, StepHead) else 0 for h in model.heads]
        self.register_buffer("members", membership(outputs), persistent=False)
        self.register_buffer("one", torch.tensor(1.0), persistent=False)
        self.register_buffer("halted", torch.tensor(0.0))
        # Walking the modules for these at every step would cost as much as the Gram matrix.
        self.of_heads = [list(head.parameters()) for head in model.heads]
        self.output_weights = [head.output.weight for head in model.heads]
        self.of_trunk = list(model.trunk.parameters())

    def forward(
        self,
        features: Tensor,
        targets: Sequence[Tensor],
        optimizer: torch.optim.Optimizer,
        audit: bool = False,
        share: Share | None = None,
    ) -> Measured:
        """One step on features [B, T, F] and per-task targets (see job.data.Split).

        share: which part of the batch these are, where other ranks have the rest of it.
        """
        optimizer.zero_grad(set_to_none=True)
        if share is not None:
            self.model.begin_batch(share)
        with self._autocast(features):
            z = self.model.trunk(features)
        scale = self.loss_scale.scale if self.loss_scale else None
        losses, originals, gradients = self._heads(z.detach(), targets, scale, share)
        gram = gradients.gram()
        if share is not None:
            own = _grads(p for parameters in self.of_heads for p in parameters)
            self.ranks.sum_([losses, originals, gram, *own])
        head_norms = self._head_norms(scale)
        fatal = self.halted.clone()
        flag_not_finite([losses], fatal, self.one)
        skipped = fatal.clone()
        flag_not_finite([gram], skipped, self.one)
        learned = [] if scale is None else [b.clone() for b in self.balancer.buffers()]
        weights: Tensor = self.balancer(losses, gram)
        exact = self._audit(z, gradients, scale) if audit else None

        combined = gradients.combined(weights if scale is None else weights * scale)
        z.backward(combined.to(z.dtype))
        if share is not None:
            self.ranks.sum_(_grads(self.of_trunk))
        self._finish_gradients(optimizer, weights, losses, scale, skipped)
        self._update(optimizer, fatal, skipped, learned)
        return Measured(
            losses, originals, weights, gram, head_norms, skipped, self.halted.clone(), exact
        )

    def _autocast(self, features: Tensor) -> torch.autocast | nullcontext[None]:
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(features.device.type, dtype)

    def _heads(
        self,
        z: Tensor,
        targets: Sequence[Tensor],
        scale: Tensor | None,
        share: Share | None = None,
    ) -> tuple[Tensor, Tensor, Gradients]:
        """Losses [K] in transformed and original units, and the losses' gradients at z.

        Fills the gradients of the heads' parameters, unweighted; times the loss scale. Of a share
        of the batch: what it contributes to the whole batch's.
        """
        mean = z.mean(1)
        means = [mean.detach().requires_grad_() for step in self.model.is_step if not step]
        with self._autocast(z):
            by_step, rows = self.model.read_steps(z)
            outputs = self.model.outputs(by_step, means)
        if by_step.requires_grad:
            by_step.retain_grad()
        pairs = [f(o, y) for f, o, y in zip(self.losses, outputs, targets, strict=True)]
        losses = torch.stack([loss for loss, _ in pairs])
        originals = torch.stack([original for _, original in pairs])
        if share is not None:
            losses, originals = losses * share.weight, originals * share.weight
        (losses.sum() if scale is None else losses.sum() * scale).backward()

        read = [by_step, *means]
        at_outputs, *at_means = [
            (torch.zeros_like(x) if x.grad is None else x.grad).float() for x in read
        ]
        if scale is not None:
            torch._foreach_div_([at_outputs, *at_means], scale)
        at_rows = torch.cat([rows.detach().float(), *(m.unsqueeze(1) for m in at_means)], 1)
        gradients = Gradients(at_outputs, at_rows, self.members)
        return losses.detach(), originals, gradients

    def _head_norms(self, scale: Tensor | None) -> Tensor:
        norms = torch.stack(torch._foreach_norm(_grads(self.output_weights)))
        return norms if scale is None else norms / scale

    def _audit(self, z: Tensor, gradients: Gradients, scale: Tensor | None) -> Tensor:
        """Norms [K] of each unweighted loss's gradient on all of the trunk's parameters."""
        norms = []
        for k in range(len(self.losses)):
            at_z = gradients.at_z(k) if scale is None else gradients.at_z(k) * scale
            grads = torch.autograd.grad(z, self.of_trunk, at_z.to(z.dtype), retain_graph=True)
            self.ranks.sum_(grads)
            norms.append(torch.stack(torch._foreach_norm(grads)).norm())
        return torch.stack(norms) if scale is None else torch.stack(norms) / scale

    def _finish_gradients(
        self,
        optimizer: torch.optim.Optimizer,
        weights: Tensor,
        losses: Tensor,
        scale: Tensor | None,
        skipped: Tensor,
    ) -> None:
        """Weigh the heads' gradients, add the balancer's own, unscale and clip them all.

        Sets the flag where one is not finite.
        """
        if self.balancer.weighs_heads:
            for weight, parameters in zip(weights.unbind(), self.of_heads, strict=True):
                torch._foreach_mul_(_grads(parameters), weight)
        objective = self.balancer.objective(losses)
        if objective is not None:
            (objective if scale is None else objective * scale).backward()
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        grads = _grads(trained)
        flag_not_finite(grads, skipped, self.one if scale is None else 1 / scale)
        if self.clip is not None:
            norm = torch.nn.utils.get_total_norm(grads, foreach=True)
            torch.nn.utils.clip_grads_with_norm_(trained, self.clip, norm, foreach=True)

    def _update(
        self,
        optimizer: torch.optim.Optimizer,
        fatal: Tensor,
        skipped: Tensor,
        learned: list[Tensor],
    ) -> None:
        """Apply the update unless the flag says to skip it.

        A loss that is not finite halts the run; so does a gradient, unless a smaller loss scale
        may still cure it: then what the balancer had learned before this step is put back. The
        optimizer reads the flag on the device (`found_inf`).
        """
        if self.loss_scale is None:
            self.halted.copy_(skipped)
        else:
            self.halted.copy_(torch.where(self.loss_scale.scale >= 1, fatal, skipped))
            self.loss_scale.update(skipped > 0)
            for now, before in zip(self.balancer.buffers(), learned, strict=True):
                now.copy_(torch.where(skipped > 0, before, now))
        optimizer.found_inf = skipped  # type: ignore[attr-defined]  # read by fused optimizers
        optimizer.step()


def _grads(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
