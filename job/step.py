"""One training step, and the exact gradient that each task gives the shared representation.

    features ─▶ trunk ─▶ z ┊▶ heads ─▶ loss of each task ─▶ its gradient at z ─┐
                           ┊                                 Gram matrix [K, K] ├▶ balancer ─▶ w
                           ◀──────── Σ_k w_k ∂L_k/∂z ◀───────────────────────── ┘

The heads read a detached z. One backward over the sum of the losses reaches every head and stops
there, leaving exactly what each task's gradient at z is made of (job.gradients); the weighted
combination then goes through the trunk once. Nothing here waits for the device: what a step
measures stays there until the ledger fetches it.
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
from job.precision import LossScale
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
    halted: Tensor

    def __init__(
        self,
        model: Jade,
        losses: Sequence[TaskLoss],
        balancer: Balancer,
        clip: float | None = None,
        precision: str = "fp32",
        loss_scale: LossScale | None = None,
    ) -> None:
        super().__init__()
        self.model, self.balancer = model, balancer
        self.losses = nn.ModuleList(losses)
        self.clip, self.precision = clip, precision
        self.loss_scale = loss_scale or (LossScale() if precision == "fp16" else None)
        outputs = [h.output.out_features if isinstance(h, StepHead) else 0 for h in model.heads]
        self.register_buffer("members", membership(outputs), persistent=False)
        self.register_buffer("halted", torch.tensor(0.0))

    def forward(
        self,
        features: Tensor,
        targets: Sequence[Tensor],
        optimizer: torch.optim.Optimizer,
        audit: bool = False,
    ) -> Measured:
        """One step on features [B, T, F] and per-task targets (see job.data.Split)."""
        optimizer.zero_grad(set_to_none=True)
        with self._autocast(features):
            z = self.model.trunk(features)
        scale = self.loss_scale.scale if self.loss_scale else None
        losses, originals, gradients = self._heads(z.detach(), targets, scale)
        gram, head_norms = gradients.gram(), self._head_norms(scale)
        healthy = torch.isfinite(losses).all() & torch.isfinite(gram).all()
        weights = self._weigh(losses, gram, healthy)
        exact = self._audit(z, gradients) if audit else None

        combined = gradients.combined(weights if scale is None else weights * scale)
        z.backward(combined.to(z.dtype))
        skipped = self._update(optimizer, weights, scale, losses, healthy)
        return Measured(
            losses, originals, weights, gram, head_norms, skipped, self.halted.clone(), exact
        )

    def _autocast(self, features: Tensor) -> torch.autocast | nullcontext[None]:
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(features.device.type, dtype)

    def _heads(
        self, z: Tensor, targets: Sequence[Tensor], scale: Tensor | None
    ) -> tuple[Tensor, Tensor, Gradients]:
        """Losses [K] in transformed and original units, and the losses' gradients at z.

        Fills the gradients of the heads' parameters, unweighted; times the loss scale.
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
        (losses.sum() if scale is None else losses.sum() * scale).backward()

        unscale = 1.0 if scale is None else 1 / scale
        at_outputs = torch.zeros_like(by_step) if by_step.grad is None else by_step.grad
        at_means = [torch.zeros_like(m) if m.grad is None else m.grad for m in means]
        gradients = Gradients(
            at_outputs.float() * unscale,
            rows.detach().float(),
            torch.stack(at_means, 1).float() * unscale
            if means
            else mean.new_zeros(len(z), 0, mean.shape[1]),
            self.members,
        )
        return losses.detach(), torch.stack([original for _, original in pairs]), gradients

    def _head_norms(self, scale: Tensor | None) -> Tensor:
        output_weights = [head.output.weight for head in self.model.heads]
        norms = torch.stack(torch._foreach_norm(_grads(output_weights)))
        return norms if scale is None else norms / scale

    def _weigh(self, losses: Tensor, gram: Tensor, healthy: Tensor) -> Tensor:
        """The balancer's weights [K]; a step that will be skipped leaves its state untouched."""
        if self.loss_scale is None:
            given: Tensor = self.balancer(losses, gram)
            return given
        before = [b.clone() for b in self.balancer.buffers()]
        safe = torch.where(healthy, gram, torch.eye(len(losses), device=gram.device))
        weights: Tensor = self.balancer(torch.where(healthy, losses, 1.0), safe)
        for buffer, old in zip(self.balancer.buffers(), before, strict=True):
            buffer.copy_(torch.where(healthy, buffer, old))
        return weights

    def _audit(self, z: Tensor, gradients: Gradients) -> Tensor:
        """Norms [K] of each unweighted loss's gradient on all of the trunk's parameters."""
        parameters = list(self.model.trunk.parameters())
        norms = []
        for k in range(len(self.losses)):
            at_z = gradients.at_z(k).to(z.dtype)
            grads = torch.autograd.grad(z, parameters, at_z, retain_graph=True)
            norms.append(torch.stack(torch._foreach_norm(grads)).norm())
        return torch.stack(norms)

    def _update(
        self,
        optimizer: torch.optim.Optimizer,
        weights: Tensor,
        scale: Tensor | None,
        losses: Tensor,
        healthy: Tensor,
    ) -> Tensor:
        """Apply the update unless something is not finite; returns 0/1, whether it was skipped.

        A loss that is not finite halts the run; so does a gradient, unless a smaller loss scale
        may still cure it. The optimizer reads the flag on the device (`found_inf`).
        """
        if self.balancer.weighs_heads:
            for weight, head in zip(weights.unbind(), self.model.heads, strict=True):
                torch._foreach_mul_(_grads(head.parameters()), weight)
        objective = self.balancer.objective(losses)
        if objective is not None:
            objective.backward()
        parameters = [p for g in optimizer.param_groups for p in g["params"]]
        grads = _grads(parameters)
        if scale is not None:
            torch._foreach_mul_(_grads(self.model.parameters()), 1 / scale)
        norm = torch.nn.utils.get_total_norm(grads, foreach=True)
        healthy = healthy & torch.isfinite(norm)
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip, norm, foreach=True)
        curable = torch.isfinite(losses).all() & (scale >= 1) if scale is not None else False
        self.halted.copy_(torch.where(healthy | curable, self.halted, 1.0))
        skipped = torch.where(healthy, self.halted, 1.0)
        optimizer.found_inf = skipped  # type: ignore[attr-defined]  # read by fused optimizers
        optimizer.step()
        if self.loss_scale is not None:
            self.loss_scale.update(skipped > 0)
        return skipped


def _grads(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
