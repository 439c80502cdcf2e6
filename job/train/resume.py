"""The tensors of a training's state, and how to go on from them: what is missing here is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from job.data.encoding.input_info import FEATURES
from job.errors import Fault, InputError
from job.train.ledger import Ledger
from job.train.step import Stepper
from job.train.updates.average import Average

SCALING = "model.trunk.entry."
"""How the names of the scaling's buffers begin in a checkpoint."""
OLDER_NAMES = {
    "model.trunk.scaling.": f"{SCALING}by_input.input_{FEATURES}.",
    "model.trunk.lstm.": "model.trunk.encoder.lstm.",
}
"""How names begin in checkpoints of older versions, and in those of this one."""


def check_order(values: Mapping[str, Any], now: Sequence[str]) -> None:
    """Raise InputError if a checkpoint's network joins its inputs in another order than this one's.

    values: of its manifest; older ones do not say. The weights of an input would meet another one.
    The content of a spec is the same in any order, as is its stored form, which sorts its keys.
    """
    before = values.get("inputs", now)
    if list(before) != list(now):
        rule = f"the checkpoint's network joins them in the order {', '.join(before)}"
        remedy = "list them so in the spec"
        raise InputError([Fault("$.data.inputs", ", ".join(now), rule, remedy)])


class Stateful(NamedTuple):
    """What of a training changes with each step, apart from its position."""

    stepper: Stepper
    optimizer: torch.optim.Optimizer
    average: Average | None
    ledger: Ledger
    device: torch.device

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, on their device, not copied."""
        found = dict(self.stepper.state_dict())
        for i, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{i}.{name}": value for name, value in moments.items()}
        if self.average is not None:
            found |= {f"ema.{name}": each for name, each in self.average.tensors.items()}
        found["ledger.sums"] = self.ledger.sums
        found["generator.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            found["generator.cuda"] = torch.cuda.get_rng_state(self.device)
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take on what `tensors` returned, in this or another process."""
        mine = self.stepper.state_dict()
        found = {named_now(name): tensor for name, tensor in tensors.items()}
        # Older checkpoints hold no scaling, because features were taken as they are.
        found = {name: x for name, x in mine.items() if name.startswith(SCALING)} | found
        self.stepper.load_state_dict({name: found[name] for name in mine})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, i, key = name.split(".")
                moments.setdefault(int(i), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if self.average is not None:
            for name, each in self.average.tensors.items():
                each.copy_(tensors[f"ema.{name}"])
        self.ledger.sums.copy_(tensors["ledger.sums"])
        torch.set_rng_state(tensors["generator.cpu"])
        if self.device.type == "cuda" and "generator.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["generator.cuda"], self.device)


def named_now(name: str) -> str:
    """A tensor's name in a checkpoint of this version."""
    for older, now in OLDER_NAMES.items():
        if name.startswith(older):
            return now + name.removeprefix(older)
    return name
