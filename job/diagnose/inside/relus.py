"""Units behind a ReLU that are 0 for every training sample: nothing passes, in either direction.

A ReLU is seen wherever it is computed: as a module, as a function, or as a tensor's method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from job.diagnose.inside.leaves import watched
from job.model.undisturbed import undisturbed
from job.train.evaluate import evenly_spaced
from job.train.trainer import Trainer

SAMPLES, BATCH = 1024, 128
"""Training samples that pass, at most, and in a batch."""
RELUS = {torch.ops.aten.relu.default, torch.ops.aten.relu_.default}
CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)


@dataclass(frozen=True)
class Relu:
    """A ReLU of a network."""

    behind: str
    """The layer in front of it."""
    units: int
    dead: float
    """Share of its units that are 0 for all of the samples, at all positions."""


class _Watch(TorchDispatchMode):
    """Calls `take` with what each ReLU reads and makes."""

    def __init__(self, take: Callable[[Tensor, Tensor], None]) -> None:
        TorchDispatchMode.__init__(self)
        self.take = take

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False keeps torch from importing its compiler here, only for that to look away: 4 s."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in RELUS:
            self.take(args[0], made)
        return made


class _Counter:
    """Collects, over batches, which units have ever fired."""

    def __init__(self) -> None:
        self.before: list[tuple[str, nn.Module, Tensor]] = []
        """Layers called so far in this batch, with what they made."""
        self.fired: dict[str, Tensor] = {}
        """By name of a ReLU, bool [units]."""

    def take_layer(self, name: str, module: nn.Module, read: Tensor | None, made: Tensor) -> None:
        """Remember what a layer made, to know it again in front of a ReLU."""
        self.before.append((name, module, made))

    def take_relu(self, read: Tensor, made: Tensor) -> None:
        """Note which units fire."""
        at, unnamed = read.data_ptr(), [("its inputs", nn.Identity(), read)]
        makers = [each for each in self.before if each[2].data_ptr() == at]
        name, maker, _ = (makers or self.before or unnamed)[-1]
        channels = isinstance(maker, CHANNELS_FIRST) and made.dim() > 2
        units = made.movedim(1, -1) if channels else made
        now = (units.flatten(0, -2) > 0).any(0)
        earlier = self.fired.get(name)
        if earlier is None or len(earlier) == len(now):
            self.fired[name] = now if earlier is None else earlier | now


def relus(training: Trainer) -> list[Relu]:
    """The ReLUs of a network as it is now, in the order in which they are computed."""
    model, train, counter = training.model, training.data.train, _Counter()
    with undisturbed(model, training=False), torch.no_grad(), watched(model, counter.take_layer):
        for some in evenly_spaced(len(train), SAMPLES).split(BATCH):
            counter.before.clear()
            inputs = train.inputs_of(some, training.device)
            with _Watch(counter.take_relu):
                model(inputs)
    return [
        Relu(name, len(fired), 1 - fired.double().mean().item())
        for name, fired in counter.fired.items()
    ]
