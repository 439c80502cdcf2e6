"""A multi-gate mixture of experts (Ma et al. 2018) for a table: the network of mmoe.json."""

import math

import torch
from torch import nn


class MMoE(nn.Module):
    """Experts that all tasks share; each task has a gate that mixes them, and a tower."""

    def __init__(self, tasks, features, experts, width, tower):
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(features, width), nn.ReLU()) for _ in range(experts)
        )
        self.gates = nn.ModuleDict({t.name: nn.Linear(features, experts) for t in tasks})
        self.towers = nn.ModuleDict(
            {
                t.name: nn.Sequential(
                    nn.Linear(width, tower), nn.ReLU(), nn.Linear(tower, t.outputs)
                )
                for t in tasks
            }
        )

    def trunk(self, inputs):
        """What all tasks share, z [B, experts, width]: what each expert makes of a row."""
        x = inputs["features"].flatten(1)
        return torch.stack([expert(x) for expert in self.experts], dim=1)

    def head(self, task, z, inputs):
        """One task's outputs [B, outputs]: its gate mixes the experts, its tower reads the mix."""
        x = inputs["features"].flatten(1)
        shares = self.gates[task](x).softmax(dim=1)  # [B, experts]
        mix = (shares.unsqueeze(2) * z).sum(dim=1)  # [B, width]
        return self.towers[task](mix)

    def start_at(self, task, outputs):
        """Begin at the mean of the training target."""
        with torch.no_grad():
            self.towers[task][-1].bias.copy_(outputs)


def build(tasks, inputs, experts=4, width=32, tower=16):
    """The network for these tasks and inputs; the other arguments are `options` of the spec."""
    features = math.prod(inputs["features"].shape)
    return MMoE(tasks, features, experts, width, tower)
