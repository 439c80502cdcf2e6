"""One attempt of one side: `python -m tests.bench.survival.training SIDE FOLDER`.

The campaign starts it, with its orders in the environment. Beside the final weights (`final.pt`) it
leaves in the folder whatever the side keeps there.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch

from tests.bench.survival.problem import OFTEN, PER_EPOCH
from tests.bench.survival.witness import Witness


class Side(NamedTuple):
    """A way to train, and to keep checkpoints."""

    module: str
    """Module of this package whose `train` it is."""
    how: str | int | None
    """What that is given: a way to keep, or the steps between two checkpoints."""
    period: int
    """Steps between two checkpoints."""
    package: str | None = None
    """Distribution that it needs, beside torch."""


SIDES = {
    "evengrad, every epoch": Side("evengrad", None, PER_EPOCH),
    f"evengrad, every {OFTEN} steps": Side("evengrad", OFTEN, OFTEN),
    "by hand, as the tutorial": Side("by_hand", "tutorial", PER_EPOCH),
    "by hand, with care": Side("by_hand", "careful", PER_EPOCH),
    "torch.distributed.checkpoint": Side("distributed", "distributed", PER_EPOCH),
    "torch_checkpointing": Side("distributed", "managed", PER_EPOCH, "torch-checkpointing"),
    "Lightning, every epoch": Side("lightning", None, PER_EPOCH, "pytorch-lightning"),
    f"Lightning, every {OFTEN} steps": Side("lightning", OFTEN, OFTEN, "pytorch-lightning"),
}


def main(name: str, folder: Path) -> None:
    torch.set_num_threads(1)
    side = SIDES[name]
    train = import_module(f"tests.bench.survival.{side.module}").train
    train(folder, side.how, Witness(folder))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
