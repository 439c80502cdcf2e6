"""What all sides train: two tasks on sequences, 8 epochs of 20 steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

from tests.bench.survival.network import Network, build

TRAIN, VALIDATION, LENGTH, FEATURES = 320, 80, 12, 8
BATCH, EPOCHS, SEED, LR = 16, 8, 0, 1e-3
PER_EPOCH = TRAIN // BATCH
"""Steps of an epoch."""
STEPS = EPOCHS * PER_EPOCH
"""Steps of a whole training."""
OFTEN = PER_EPOCH // 2
"""Steps between two checkpoints of the sides that save within an epoch."""

SPEC: dict[str, Any] = {
    "name": "survival",
    "seed": SEED,
    "data": {"kind": "arrays", "path": "data.npz", "scale": "none", "split": "tail"},
    "model": {"kind": "python", "file": "network.py"},
    "tasks": [
        {"name": "failed", "level": "window", "outputs": 2, "loss": {"kind": "cross_entropy"}},
        {"name": "wear", "level": "step", "loss": {"kind": "huber"}},
    ],
    "balance": {"kind": "fixed"},
    "optimizer": {"lr": LR},
    "train": {"epochs": EPOCHS, "batch_size": BATCH, "device": "cpu", "threads": 1},
}


def write(folder: Path) -> None:
    """The data, and the spec of evengrad's sides with its network."""
    draw = np.random.default_rng(SEED)
    x = draw.normal(size=(TRAIN + VALIDATION, LENGTH, FEATURES)).astype("f4")
    wear = (x[:, :, 0].cumsum(1) / 5).astype("f4")
    folder.mkdir(parents=True, exist_ok=True)
    failed = (wear.max(1) > 1).astype("i8")
    np.savez(folder / "data.npz", features=x, failed=failed, wear=wear)
    (folder / "spec.json").write_text(json.dumps(SPEC))
    shutil.copy(Path(__file__).with_name("network.py"), folder)


def arrays(folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """The training split: features [N, T, F], `failed` [N] and `wear` [N, T]."""
    with np.load(folder / "data.npz") as file:
        x, failed, wear = (
            torch.from_numpy(file[n][:TRAIN]) for n in ("features", "failed", "wear")
        )
    return x, failed, wear


def dataset(folder: Path) -> TensorDataset:
    return TensorDataset(*arrays(folder))


def network() -> Network:
    """The network at its start, drawn by torch's generator."""
    tasks = [
        SimpleNamespace(name="failed", outputs=2, positions=()),
        SimpleNamespace(name="wear", outputs=1, positions=(LENGTH,)),
    ]
    return build(tasks, {"features": SimpleNamespace(shape=(LENGTH, FEATURES))})


def loss_of(model: Network, x: Tensor, failed: Tensor, wear: Tensor) -> Tensor:
    """The sum of both tasks' mean losses on a batch."""
    inputs = {"features": x}
    z = model.trunk(inputs)
    first = F.cross_entropy(model.head("failed", z, inputs), failed)
    return first + F.huber_loss(model.head("wear", z, inputs)[..., 0], wear)
