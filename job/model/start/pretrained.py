"""Begin with tensors of another network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from job.errors import Fault, InputError
from job.model.start.names import matched


class Source(NamedTuple):
    """Where tensors come from, for faults."""

    section: str
    """JSON path of the section that names it."""
    field: str
    """The field of it that does."""
    kind: str
    """file, or run."""
    name: str


@torch.no_grad()
def begin_with(
    model: nn.Module, parts: Sequence[str], tensors: Mapping[str, Tensor], source: Source
) -> list[str]:
    """Copy tensors into the parts of a network that patterns name; returns the tensors' names.

    A part's parameters are taken, and the statistics of its normalizations. What scales the inputs
    is fitted to the run's own data. Raises InputError with one fault for each layer of which the
    source lacks a tensor, or has one of another shape, and changes nothing then.
    """
    own = dict(_learned(model))
    names = list(matched(dict.fromkeys(parts, True), list(own), f"{source.section}.parts"))
    faults: dict[str, Fault] = {}
    for name in names:
        layer = name.rpartition(".")[0]
        if layer not in faults and (fault := _misfit(name, own[name], tensors, source)):
            faults[layer] = fault
    if faults:
        raise InputError(list(faults.values()))
    for name in names:
        own[name].copy_(tensors[name])
    return names


def _learned(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and buffers of modules that keep running statistics, by name."""
    yield from model.named_parameters()
    for prefix, module in model.named_modules():
        if isinstance(getattr(module, "running_mean", None), Tensor):
            for name, buffer in module.named_buffers(recurse=False):
                yield f"{prefix}.{name}", buffer


def _misfit(name: str, own: Tensor, tensors: Mapping[str, Tensor], source: Source) -> Fault | None:
    """The fault of a tensor that the source lacks or has in another shape."""
    remedy = f"leave the layer out of parts, or build the network as the {source.kind}'s was"
    where = f"{source.section}.{source.field}"
    if name not in tensors:
        rule = f"the network begins with this tensor of {source.name}"
        return Fault(where, f"no tensor {name}", rule, remedy)
    if tensors[name].shape != own.shape:
        found = f"{name} of shape {list(tensors[name].shape)}"
        rule = f"the network's is {list(own.shape)}"
        return Fault(where, found, rule, remedy)
    return None
