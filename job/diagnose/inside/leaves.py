"""The layers of a network: its modules without inner modules, called as their author named them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from job.model.network import Network
from job.model.scaling import Scaling

Take = Callable[[str, nn.Module, Tensor | None, Tensor], None]
"""Called with a layer's name, the layer, what it reads (None if that is no tensor of floats) and
what it makes of it."""


def leaves(model: Network) -> dict[str, nn.Module]:
    """The layers by name; the scaling of the inputs is none."""
    return {
        authors_name(name): module
        for name, module in model.named_modules()
        if module is not model and not isinstance(module, Scaling) and not [*module.children()]
    }


def authors_name(name: str) -> str:
    """The name of a module or parameter in the file of its author."""
    return name.removeprefix("own.")


@contextmanager
def watched(model: Network, take: Take) -> Iterator[None]:
    """In it, `take` is called after each call of a layer."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            made = _floats(output)
            if made is not None:
                take(name, module, _floats(args), made)

        return after

    hooks = [m.register_forward_hook(hook(name)) for name, m in leaves(model).items()]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def _floats(value: Any) -> Tensor | None:
    """The first tensor, if it is one of floats; an LSTM's output is a tuple."""
    while isinstance(value, tuple) and value:
        value = value[0]
    return value if isinstance(value, Tensor) and value.is_floating_point() else None
