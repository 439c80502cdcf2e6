"""Layers that do not train although they hold nothing but the numbers of a random start."""

from __future__ import annotations

import torch
from torch import nn

from job.diagnose.inside.leaves import authors_name, leaves
from job.model.start.frozen import frozen_names
from job.train.build.network import build_network
from job.train.trainer import Trainer


def frozen_at_random(training: Trainer) -> list[str]:
    """Parameters of torch's layers with `requires_grad` off that another seed starts elsewhere.

    Those that the spec freezes, or that begin with the numbers of a trained network, are left out,
    and so are bare parameters: who freezes those has written it beside them.
    """
    model = training.model
    names = [name for name, _ in model.named_parameters()]
    wanted = {*frozen_names(training.spec.model.freeze, names), *training.pretrained}
    inner = {id(p) for m in leaves(model).values() if _is_torchs(m) for p in m.parameters()}
    still = {
        name: p
        for name, p in model.named_parameters()
        if not p.requires_grad and name not in wanted and id(p) in inner
    }
    if not still:
        return []
    with torch.random.fork_rng(devices=[]):
        seed = training.spec.seed + 1
        torch.manual_seed(seed)
        spec = training.spec.model_copy(update={"seed": seed})
        other = dict(build_network(spec, training.data).named_parameters())
    return [
        authors_name(name)
        for name, p in still.items()
        if not torch.equal(p.detach().cpu(), other[name].detach())
    ]


def _is_torchs(layer: nn.Module) -> bool:
    return type(layer).__module__.startswith("torch.nn.")
