"""torch's optimizers without PyTorch's compiler, whose import takes 3 s."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch.optim import Optimizer

Kind = TypeVar("Kind", bound=Optimizer)


def without_compiler(kind: type[Kind]) -> type[Kind]:
    """An optimizer whose first use does not import PyTorch's compiler.

    PyTorch wraps these methods so that the compiler, which nothing here uses, leaves them alone.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    step: Callable[..., Any] = inspect.unwrap(kind.step)
    methods["step"] = torch.no_grad()(step)
    return cast(type[Kind], type(kind.__name__, (kind,), methods))
