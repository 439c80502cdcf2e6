"""A task's loss, in transformed and in original units."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from job.model.labels import labelled, shares, weighted_mean
from job.model.losses.best_constant import best_constant
from job.model.losses.element_losses import (
    STEEPEST,
    element_losses,
    log_variance_ratio,
    mean_loss,
    sample_losses,
)
from job.spec import GaussianNLL, Huber, Loss, Quantile, Scale, Task

Measure = Callable[[Loss, Tensor, Tensor], Tensor]
TINY = 1e-6
ROUNDING = 1e-6
"""A standard deviation below this part of the largest label is rounding of float32, no spread."""
FAR = 60.0
"""Log of the largest predicted deviation over the least one, so that it is finite."""
FLAT = 0.05
"""Share of its steepest slope, below which an activation counts as flat."""


class Weighed(NamedTuple):
    """What the elements of a target weigh, in their shape."""

    weights: Tensor
    """Float32; bool where those with a label weigh the same."""
    known: Tensor
    """Bool, the elements that count: they have a label, and a weight above 0."""


class TaskLoss(nn.Module):
    """The loss of one task, and the transform of its target, which is part of the run's state.

    shift, scale [O]: transformed = (original − shift) / scale. class_weight, if the task has one:
    [O] of classes, [O, 2] of binary_cross_entropy.

    Where elements weigh differently (`uneven`), a mean loss is Σ w l / Σ w over the elements. An
    element without a label has the weight 0. Neither its target nor its output is then in any
    computation, so that no NaN reaches a gradient.
    """

    shift: Tensor
    scale: Tensor
    class_weight: Tensor
    zero: Tensor

    def __init__(self, task: Task, partial: bool | None = None) -> None:
        """partial: whether elements without a label may come; None: if the task allows them."""
        super().__init__()
        self.task = task
        self.partial = task.missing == "skip" if partial is None else partial
        self.uneven = bool(self.partial or task.class_weight or task.sample_weight)
        by = task.transform.by if isinstance(task.transform, Scale) else 1.0
        self.register_buffer("zero", torch.tensor(0.0), persistent=False)
        self.register_buffer("shift", torch.zeros(task.outputs))
        self.register_buffer("scale", torch.full((task.outputs,), by))
        if task.class_weight is not None:
            shape = (task.outputs, 2)[: 1 if task.loss.of_classes else 2]
            listed = () if task.class_weight == "balanced" else task.class_weight
            self.register_buffer("class_weight", torch.tensor(listed or 1.0).expand(shape).clone())

    def fit(self, target: Tensor) -> None:
        """Fit the transform and balanced class weights to the training split's labels.

        target: [N, …] as for `forward`. Each label counts once, whatever its sample weighs.
        """
        if self.task.transform.kind == "standardize":
            mean, deviation = self._moments(target)
            self.shift.copy_(mean)
            largest = target.flatten(0, -2).abs().nan_to_num().amax(0).double()
            rounding = (ROUNDING * largest).clamp(min=torch.finfo(torch.float32).tiny)
            self.scale.copy_(torch.where(deviation > rounding, deviation, 1.0))
        if self.task.class_weight == "balanced":
            counts = self._class_counts(target)
            # A class without a label counts as one seen once: its weight is finite.
            balanced = counts.sum(-1, keepdim=True) / (counts.shape[-1] * counts.clamp(min=1))
            self.class_weight.copy_(balanced)

    def _moments(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [O] float64 of the labels of a target [N, …, O]."""
        flat = target.flatten(0, -2).double()
        if not self.partial:
            return flat.mean(0), flat.std(0, correction=0)
        known = labelled(flat)
        mean = weighted_mean(flat, known)
        return mean, weighted_mean((flat - mean).square(), known).sqrt()

    def _class_counts(self, target: Tensor) -> Tensor:
        """Number of labels of each class, float64: [O] of classes, [O, 2] of 0 and of 1."""
        if self.task.loss.of_classes:
            return torch.bincount(target[labelled(target)], minlength=self.task.outputs).double()
        flat = target.flatten(0, -2)
        return torch.stack([(flat == value).sum(0) for value in (0, 1)], 1).double()

    def deviation(self, target: Tensor) -> Tensor:
        """Standard deviation [O] float64 of a target's labels, in transformed units."""
        return self._moments(self.transformed(target))[1]

    def transformed(self, target: Tensor) -> Tensor:
        """A target in transformed units."""
        if self.task.transform.kind == "none":
            return target
        return (target - self.shift) / self.scale

    def judged(self, target: Tensor) -> Tensor:
        """A target in the units in which the loss in original units reads it.

        A loss in nats is the same in both units, and reads the transformed one.
        """
        return self.transformed(target) if self.task.loss.reads else target

    def labelled(self, target: Tensor) -> Tensor:
        """Which elements have a label: bool, in their shape. A list has one if two items do."""
        known = labelled(target)
        return known.sum(-1) > 1 if self.task.loss.whole else known

    def weights(self, target: Tensor, of_samples: Tensor | None = None) -> Tensor | None:
        """What each element of a target weighs, in their shape; None if all weigh the same.

        target: [B, …] as for `forward`. of_samples: [B], the weights of the samples.
        """
        weighed = self.weighed(target, of_samples)
        return None if weighed is None else weighed.weights.float()

    def weighed(self, target: Tensor, of_samples: Tensor | None = None) -> Weighed | None:
        """The same, with the elements that count."""
        if not self.uneven:
            return None
        weights = self.labelled(target)
        if self.task.class_weight is None and of_samples is None:
            return Weighed(weights, weights)
        if self.task.class_weight is not None:
            if self.task.loss.of_classes:
                weights = weights * self.class_weight[target.clamp(min=0)]
            else:
                zero, one = self.class_weight.unbind(1)
                weights = weights * torch.where(target > 0, one, zero)
        if of_samples is not None:
            weights = weights * of_samples.view(-1, *[1] * (weights.dim() - 1))
        return Weighed(weights, weights > 0)

    def activate(self, outputs: Tensor) -> Tensor:
        """The head's outputs after its activation, in transformed units."""
        match self.task.activation:
            case "sigmoid":
                return outputs.sigmoid()
            case "tanh":
                return outputs.tanh()
            case "relu":
                return outputs.relu()
            case _:
                return outputs

    def forward(
        self,
        outputs: Tensor,
        target: Tensor,
        shared: Tensor | None = None,
        known: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Outputs and target of a batch → mean loss in transformed and in original units.

        The first carries the gradient; the second is detached. shared: in the shape of `weights`,
        each element's share in the mean, if they weigh differently; if left out, they sum to 1 over
        this target. known: those whose share is above 0, if that is known.
        """
        if shared is None:
            if (weights := self.weights(target)) is None:
                return self._both(mean_loss, outputs, target)
            shared = shares(weights)
        return self._weighted(outputs, target, shared, torch.sum, known)

    @torch.no_grad()
    def by_sample(
        self, outputs: Tensor, target: Tensor, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same for each of the batch's N samples: two tensors [N].

        weights: of the elements, if they weigh differently; then sums of weight times loss.
        """
        if weights is None:
            return self._both(sample_losses, outputs, target)
        return self._weighted(outputs, target, weights, lambda x: x.reshape(len(x), -1).sum(1))

    def _weighted(
        self,
        outputs: Tensor,
        target: Tensor,
        weights: Tensor,
        reduce: Callable[[Tensor], Tensor],
        known: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`reduce` of the elements' weighted losses, in transformed and in original units."""
        if self.partial:
            known = weights > 0 if known is None else known
            outputs, target = self._without_missing(outputs, target, known)

        def measure(loss: Loss, prediction: Tensor, target: Tensor) -> Tensor:
            return reduce(element_losses(loss, prediction, target) * weights)

        return self._both(measure, outputs, target)

    def _without_missing(
        self, outputs: Tensor, target: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Outputs and target with harmless values at the elements that are not `known`."""
        loss, at_target = self.task.loss, known
        if loss.of_classes:
            known = known.unsqueeze(-1)
        elif loss.whole:  # of a known list, some items may be missing
            at_target = known.unsqueeze(-1)
            known = at_target & labelled(target)
        known = repeated(known, outputs.shape[-1])
        usual: Tensor | int = 0 if loss.of_classes else self.shift
        return torch.where(known, outputs, self.zero), torch.where(at_target, target, usual)

    def _both(self, measure: Measure, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        outputs = outputs.float()
        if self.task.loss.reads:
            loss = measure(self.task.loss, outputs, self.transformed(target))
            return loss, loss.detach()
        prediction = self.activate(outputs)
        if self.task.transform.kind == "none":
            loss = measure(self.task.loss, prediction, target)
            return loss, loss.detach()
        loss = measure(self.task.loss, prediction, (target - self.shift) / self.scale)
        with torch.no_grad():
            original = measure(self.task.loss, self._original(prediction), target)
        return loss, original

    def saturated(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Share of the labels at which the loss is saturated: its gradient ignores the error.

        Outputs and target as for `forward`. Beyond Huber's delta, the gradient is the same at any
        distance. Where an activation is flat, there is none; this counts if the prediction is wrong
        by half of the activation's range, or for relu if it is wrong at all. Cross-entropy never
        saturates, as its gradient grows with the error; nor do the other losses in nats.
        """
        if self.task.loss.reads:
            return outputs.new_zeros(())
        prediction = self.activate(outputs.float())
        target = repeated(target, outputs.shape[-1])
        wanted = (target - self._wide(self.shift)) / self._wide(self.scale)
        error = (wanted - prediction).abs()
        saturated = torch.zeros_like(error, dtype=torch.bool)
        if isinstance(self.task.loss, Huber):
            saturated |= error > self.task.loss.delta
        match self.task.activation:
            case "sigmoid":
                saturated |= (prediction * (1 - prediction) < FLAT / 4) & (error > 0.5)
            case "tanh":
                saturated |= (1 - prediction**2 < FLAT) & (error > 1)
            case "relu":
                saturated |= (prediction == 0) & (wanted > TINY)
        if not self.partial:
            return saturated.float().mean()
        known = labelled(target)  # comparisons with NaN are false
        return (saturated & known).sum() / known.sum().clamp(min=1)

    def _wide(self, of_outputs: Tensor) -> Tensor:
        """What holds for each output [O], for each number of the head that is in its unit [W]."""
        return repeated(of_outputs, self.task.head_width)

    def _original(self, prediction: Tensor) -> Tensor:
        """A prediction [..., W] in original units."""
        return prediction * self._wide(self.scale) + self._wide(self.shift)

    def predict(self, outputs: Tensor) -> Tensor:
        """Predictions in original units, from a head's outputs [..., W].

        [..., O]: probabilities for the categorical losses, rates of counts, scores of a list.
        [..., O × levels] of quantiles; [..., 2 O] mean and standard deviation of each output.
        """
        loss = self.task.loss
        match loss.kind:
            case "cross_entropy":
                return outputs.softmax(-1)
            case "binary_cross_entropy":
                return outputs.sigmoid()
            case "ordinal":
                above = F.pad(outputs.sigmoid().cumprod(-1), (1, 1), value=0.0)
                above[..., 0] = 1
                return above[..., :-1] - above[..., 1:]
            case "poisson_nll":
                return outputs.clamp(max=STEEPEST).exp()
            case "gaussian_nll":
                mean, raw = outputs.unflatten(-1, (-1, 2)).unbind(-1)
            case _:
                return self._original(self.activate(outputs))
        assert isinstance(loss, GaussianNLL)
        deviation = loss.floor * (log_variance_ratio(raw, loss) / 2).clamp(max=FAR).exp()
        return torch.stack([mean * self.scale + self.shift, deviation * self.scale], -1).flatten(-2)

    def mean_output(self, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """The head output [W] that predicts the mean of the training target [N, …, O].

        Of quantiles and of losses in nats, the best constant. weights: of the elements, if they
        weigh differently. If the activation cannot reach that mean, an output near it that can
        still be trained.
        """
        weights = self.weights(target) if weights is None else weights
        loss = self.task.loss
        if loss.kind == "cross_entropy":
            known = labelled(target)
            of_each = None if weights is None else weights[known].double()
            counts = torch.bincount(target[known], of_each, self.task.outputs).double()
            return ((counts + TINY) / counts.sum()).log().float()
        if loss.reads and loss.kind != "binary_cross_entropy":
            return self._best_output(target, weights).float()
        if isinstance(loss, Quantile):
            mean = self._best_output(target, weights)
        else:
            flat = target.flatten(0, -2).double()
            mean = flat.mean(0) if weights is None else weighted_mean(flat, weights.flatten(0, -2))
        if loss.kind == "binary_cross_entropy":
            return mean.logit(TINY).float()
        mean = (mean - self._wide(self.shift)) / self._wide(self.scale)
        match self.task.activation:
            case "sigmoid":
                return mean.logit(1e-3).float()
            case "tanh":
                return mean.clamp(-0.999, 0.999).atanh().float()
            case "relu":  # below 0 it would have no gradient
                return mean.clamp(min=0).float()
            case _:
                return mean.float()

    def _best_output(self, target: Tensor, weights: Tensor | None) -> Tensor:
        """The best constant [W] over all elements of a target, finite with a gradient left.

        Computed on the CPU: a search is many small steps, and not all of its parts have a
        deterministic kernel on GPUs.
        """
        loss, target = self.task.loss, self.judged(target)
        flat = target.flatten() if loss.of_classes else target.flatten(0, -2)
        if weights is not None:
            by_prediction = loss.of_classes or loss.whole
            weights = weights.flatten() if by_prediction else weights.flatten(0, -2)
            weights = weights.cpu()
        best = best_constant(loss, self.task.outputs, flat.cpu(), 0.0, weights)[0].to(target.device)
        match loss.kind:
            case "ordinal":
                return best.clamp(math.log(TINY), -math.log(TINY))
            case "poisson_nll":
                return best.clamp(min=math.log(TINY))
            case _:
                return best


def repeated(of_outputs: Tensor, width: int) -> Tensor:
    """What is of each output [..., O], for each of the numbers of a head [..., W]."""
    each = width // of_outputs.shape[-1]
    return of_outputs if each == 1 else of_outputs.repeat_interleave(each, -1)


RANGES = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, math.inf)}
"""The range of each activation, in transformed units."""


def share_outside(activation: str, wanted: Tensor) -> float:
    """Share of the targets, in transformed units, that an activation of RANGES cannot reach."""
    low, high = RANGES[activation]
    known = wanted[labelled(wanted)]
    return ((known < low) | (known > high)).double().mean().item()
