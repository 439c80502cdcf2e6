"""Trunk and heads: bars or any sequence → shared representation z → one head per task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from job import spec
from job.ranks import Share


class Dropout(nn.Dropout):
    """Dropout of a rank's rows of a batch [B, …], by the mask of the whole batch.

    So neither what is dropped nor where the generator stands afterwards depends on how many ranks
    share a batch.
    """

    share: Share | None = None
    """Of the batch under way; None: this process has all of it."""

    def forward(self, values: Tensor) -> Tensor:
        """The values [b, …] of this rank's rows, some of them dropped in training."""
        if self.share is None or not self.training:
            return super().forward(values)
        mask = super().forward(values.new_ones(self.share.of, *values.shape[1:]))
        return values * mask[self.share.rows]


class Trunk(nn.Module):
    """Input dropout and an LSTM: the parameters that all tasks share."""

    def __init__(self, model: spec.Jade, features: int) -> None:
        super().__init__()
        self.dropout = Dropout(model.dropout.input)
        self.lstm = nn.LSTM(
            features,
            model.hidden,
            model.layers,
            batch_first=True,
            bidirectional=model.bidirectional,
        )
        self.width = model.hidden * (2 if model.bidirectional else 1)
        if model.init.lstm == "orthogonal":
            self._orthogonal(model.hidden)

    def _orthogonal(self, hidden: int) -> None:
        """Saxe et al. 2014 for each gate's matrices; forget bias 1 (Jozefowicz et al. 2015)."""
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("weight"):
                for gate in parameter.data.split(hidden):
                    nn.init.orthogonal_(gate)
            else:
                nn.init.zeros_(parameter)
                if name.startswith("bias_ih"):
                    nn.init.ones_(parameter.data[hidden : 2 * hidden])

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, T, F] → shared representation z [B, T, D]."""
        z: Tensor = self.lstm(self.dropout(features))[0]
        return z


class StepHead(nn.Module):
    """A linear map per time step; the dropped features are the same at every step."""

    def __init__(self, model: spec.Jade, width: int, outputs: int) -> None:
        super().__init__()
        self.dropout = Dropout(model.dropout.heads)
        self.output = nn.Linear(width, outputs)

    def rows(self, batch: int) -> Tensor:
        """The linear map of each sample [B, O, D], dropped features zeroed.

        One mask for all steps (Gal and Ghahramani 2016): independent ones would average out over
        neighbouring steps. Masking the map instead of z spares K copies of z.
        """
        weight = self.output.weight
        mask: Tensor = self.dropout(weight.new_ones(batch, 1, weight.shape[1]))
        return weight * mask


class WindowHead(nn.Module):
    """Projection and linear map of the mean of z over time.

    Each head has its own projection: a layer shared by some heads only would belong neither to the
    trunk, where balancing acts, nor to one task.
    """

    def __init__(self, model: spec.Jade, width: int, outputs: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(
            nn.Linear(width, model.projection), nn.ReLU(), Dropout(model.dropout.heads)
        )
        self.output = nn.Linear(model.projection, outputs)

    def forward(self, pooled: Tensor) -> Tensor:
        """Mean of z over time [B, D] → outputs [B, O]."""
        outputs: Tensor = self.output(self.projection(pooled))
        return outputs


Head = StepHead | WindowHead


class Jade(nn.Module):
    """The network: a trunk and, in the order of the tasks, their heads."""

    def __init__(self, model: spec.Jade, features: int, tasks: Sequence[spec.Task]) -> None:
        super().__init__()
        self.trunk = Trunk(model, features)
        kinds: dict[str, type[Head]] = {"step": StepHead, "window": WindowHead}
        # The prefix keeps a task named like an attribute of nn.Module (`type`) apart from it.
        self.by_task = nn.ModuleDict(
            {
                f"task_{task.name}": kinds[task.level](model, self.trunk.width, task.outputs)
                for task in tasks
            }
        )

        self.heads = [head for head in self.by_task.values() if isinstance(head, Head)]
        self.is_step = [isinstance(head, StepHead) for head in self.heads]
        self.step_heads = [head for head in self.heads if isinstance(head, StepHead)]
        self.dropouts = [module for module in self.modules() if isinstance(module, Dropout)]

    def begin_batch(self, share: Share | None) -> None:
        """Say which part of the batch comes next, where this process does not have all of it."""
        for dropout in self.dropouts:
            dropout.share = share

    def read_steps(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """All step heads in one product: outputs [B, T, R] and their linear maps [B, R, D].

        R is the number of outputs of all step tasks, in the order of the tasks.
        """
        batch, steps, width = z.shape
        if not self.step_heads:
            return z.new_zeros(batch, steps, 0), z.new_zeros(batch, 0, width)
        rows = torch.cat([head.rows(batch) for head in self.step_heads], 1)
        bias = torch.cat([head.output.bias for head in self.step_heads])
        return torch.baddbmm(bias, z, rows.mT), rows

    def outputs(self, by_step: Tensor, pooled: Sequence[Tensor]) -> list[Tensor]:
        """Per task its outputs [B, T, O] or [B, O].

        by_step [B, T, R]: of all step heads. pooled: the mean of z over time [B, D], for each
        window task.
        """
        slices = iter(by_step.split([h.output.out_features for h in self.step_heads], -1))
        means = iter(pooled)
        return [
            next(slices) if isinstance(head, StepHead) else head(next(means)) for head in self.heads
        ]

    def forward(self, features: Tensor) -> list[Tensor]:
        """Features [B, T, F] → per task, outputs [B, T, O] (step) or [B, O] (window)."""
        z = self.trunk(features)
        by_step, _ = self.read_steps(z)
        return self.outputs(by_step, [z.mean(1)] * self.is_step.count(False))
