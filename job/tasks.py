"""What a task asks of its head: its loss, in transformed and in original units."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from job.spec import CATEGORICAL, Huber, Loss, Scale, Task

TINY = 1e-6
FLAT = 0.05
"""Of its steepest slope, below which an activation hardly passes a gradient."""


def mean_loss(loss: Loss, prediction: Tensor, target: Tensor) -> Tensor:
    """Mean loss over all elements (scalar).

    prediction: [..., O], logits for the categorical losses; target: [...] int64 for
    cross_entropy, [..., O] float for the others.
    """
    match loss.kind:
        case "cross_entropy":
            return F.cross_entropy(prediction.flatten(0, -2), target.flatten())
        case "binary_cross_entropy":
            return F.binary_cross_entropy_with_logits(prediction, target)
        case "huber":
            assert isinstance(loss, Huber)
            return F.huber_loss(prediction, target, delta=loss.delta)
        case "mse":
            return F.mse_loss(prediction, target)
        case "mae":
            return F.l1_loss(prediction, target)


class TaskLoss(nn.Module):
    """The loss of one task, and the transform of its target, which travels in the state.

    shift, scale [O]: transformed = (original − shift) / scale.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        by = task.transform.by if isinstance(task.transform, Scale) else 1.0
        self.register_buffer("shift", torch.zeros(task.outputs))
        self.register_buffer("scale", torch.full((task.outputs,), by))

    def fit(self, target: Tensor) -> None:
        """Fit the transform to the training split's target [N, …, O]."""
        if self.task.transform.kind == "standardize":
            flat = target.flatten(0, -2).double()
            deviation = flat.std(0, correction=0)
            self.shift.copy_(flat.mean(0))
            self.scale.copy_(torch.where(deviation > TINY, deviation, 1.0))

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

    def forward(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and target of a batch → mean loss in transformed and in original units.

        The first carries the gradient; the second is detached.
        """
        outputs = outputs.float()
        if self.task.loss.kind in CATEGORICAL:
            loss = mean_loss(self.task.loss, outputs, target)
            return loss, loss.detach()
        prediction = self.activate(outputs)
        if self.task.transform.kind == "none":
            loss = mean_loss(self.task.loss, prediction, target)
            return loss, loss.detach()
        loss = mean_loss(self.task.loss, prediction, (target - self.shift) / self.scale)
        with torch.no_grad():
            original = mean_loss(self.task.loss, prediction * self.scale + self.shift, target)
        return loss, original

    def saturated(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Share of the elements of which the loss hardly tells the outputs how wrong they are.

        Outputs and target as for `forward`. Beyond Huber's delta the gradient is the same at any
        distance; where an activation is flat there is none, which matters where it is wrong by half
        of its reach, of relu: at all. Cross-entropy's gradient grows with the error: never.
        """
        if self.task.loss.kind in CATEGORICAL:
            return outputs.new_zeros(())
        prediction = self.activate(outputs.float())
        wanted = (target - self.shift) / self.scale
        error = (wanted - prediction).abs()
        found = torch.zeros_like(error, dtype=torch.bool)
        if isinstance(self.task.loss, Huber):
            found |= error > self.task.loss.delta
        match self.task.activation:
            case "sigmoid":
                found |= (prediction * (1 - prediction) < FLAT / 4) & (error > 0.5)
            case "tanh":
                found |= (1 - prediction**2 < FLAT) & (error > 1)
            case "relu":
                found |= (prediction == 0) & (wanted > TINY)
        return found.float().mean()

    def predict(self, outputs: Tensor) -> Tensor:
        """Predictions in original units; probabilities for the categorical losses."""
        match self.task.loss.kind:
            case "cross_entropy":
                return outputs.softmax(-1)
            case "binary_cross_entropy":
                return outputs.sigmoid()
            case _:
                return self.activate(outputs) * self.scale + self.shift

    def resting_output(self, target: Tensor) -> Tensor:
        """The head output [O] that predicts the mean of the training target [N, …, O].

        Where the activation cannot reach that mean, an output near it that can still be trained.
        """
        if self.task.loss.kind == "cross_entropy":
            counts = torch.bincount(target.flatten(), minlength=self.task.outputs).double()
            return ((counts + TINY) / counts.sum()).log().float()
        mean = target.flatten(0, -2).double().mean(0)
        if self.task.loss.kind == "binary_cross_entropy":
            return mean.logit(TINY).float()
        mean = (mean - self.shift) / self.scale
        match self.task.activation:
            case "sigmoid":
                return mean.logit(1e-3).float()
            case "tanh":
                return mean.clamp(-0.999, 0.999).atanh().float()
            case "relu":  # below 0 it would have no gradient to come back by
                return mean.clamp(min=0).float()
            case _:
                return mean.float()
