"""A bare loop that saves after every epoch, in several ways."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from tests.bench.survival.problem import BATCH, EPOCHS, LR, SEED, dataset, loss_of, network
from tests.bench.survival.witness import Witness


class Training:
    """What a loop goes on with."""

    def __init__(self) -> None:
        torch.manual_seed(SEED)
        self.model = network()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), LR)
        self.epoch = self.step = 0

    def state(self) -> dict[str, Any]:
        """What PyTorch's tutorial on saving a general checkpoint keeps, and the step's number."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "model_state_dict": self.model.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.step = state["epoch"], state["step"]
        self.model.load_state_dict(state["model_state_dict"])
        self.optimizer.load_state_dict(state["optimizer_state_dict"])


class Keeper(Protocol):
    """A way to keep checkpoints in a folder."""

    def save(self, training: Training) -> None:
        """Keep the state after an epoch."""

    def restore(self, training: Training) -> None:
        """Go on from the newest checkpoint, if there is one."""

    def close(self) -> None:
        """Wait for what is under way."""


class Tutorial:
    """PyTorch's tutorial: one file, overwritten."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "checkpoint.pt"

    def save(self, training: Training) -> None:
        torch.save(training.state(), self.path)

    def restore(self, training: Training) -> None:
        if self.path.exists():
            training.restore(torch.load(self.path))

    def close(self) -> None: ...


class Careful(Tutorial):
    """With the generator's state, in a new file that replaces the old one."""

    def save(self, training: Training) -> None:
        part = self.path.with_suffix(".part")
        torch.save(training.state() | {"generator": torch.get_rng_state()}, part)
        os.replace(part, self.path)

    def restore(self, training: Training) -> None:
        super().restore(training)
        if self.path.exists():
            torch.set_rng_state(torch.load(self.path)["generator"])


KEEPERS = {"tutorial": Tutorial, "careful": Careful}


def train(folder: Path, how: str, witness: Witness) -> None:
    """how: a name of KEEPERS."""
    train_with(KEEPERS[how](folder), folder, witness)


def train_with(keeper: Keeper, folder: Path, witness: Witness) -> None:
    """The loop."""
    training = Training()
    loader = DataLoader(dataset(folder), BATCH, shuffle=True)
    keeper.restore(training)
    while training.epoch < EPOCHS:
        for x, failed, wear in loader:
            witness.before(training.step + 1, x)
            training.optimizer.zero_grad()
            loss_of(training.model, x, failed, wear).backward()
            training.optimizer.step()
            training.step += 1
        training.epoch += 1
        keeper.save(training)
    keeper.close()
    torch.save(training.model.state_dict(), folder / "final.pt")
