"""Parts of a network that do not train."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from torch import nn

from job.errors import Fault, InputError
from job.model.start.names import matched

WHERE = "$.model.freeze"


def frozen_names(patterns: Sequence[str], names: Iterable[str], where: str = WHERE) -> list[str]:
    """The names of the parameters that patterns freeze.

    where: JSON path of the patterns. Raises InputError if one matches no parameter.
    """
    return list(matched(dict.fromkeys(patterns, True), list(names), where))


def freeze(model: nn.Module, patterns: Sequence[str], where: str = WHERE) -> None:
    """Exclude parameters from training, by patterns of their names.

    where: JSON path of the patterns. Raises InputError if a pattern matches no parameter, or if
    nothing is left that trains.
    """
    for name in frozen_names(patterns, (name for name, _ in model.named_parameters()), where):
        model.get_parameter(name).requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        rule = "no parameter of the network is left that trains"
        raise InputError([Fault(where, json.dumps(list(patterns)), rule, "remove a pattern")])


def keep_still(model: nn.Module) -> None:
    """Put the parts that are frozen as a whole into evaluation mode.

    So they have no dropout, and the statistics of a BatchNorm stay as they are.
    """
    if all(p.requires_grad for p in model.parameters()):
        return
    for module in model.modules():
        parameters = list(module.parameters())
        if module is model or not parameters or any(p.requires_grad for p in parameters):
            continue
        module.eval()
        for inner in module.modules():
            if isinstance(inner, nn.RNNBase) and not inner.dropout:
                inner.training = True  # which changes nothing, but cuDNN's backward asks for it
