"""The problem that all sides solve: its samples, spec, and what a bare program builds of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from job.model.built_in import BuiltIn

EPOCHS, RATE, DECAY = 3, 1e-3, 0.01
EVALUATED = 512
"""Samples of a batch in validation."""
VALIDATION = 0.2
LSTM_TASKS = (
    ("window", 3, {"kind": "cross_entropy"}),
    ("window", 2, {"kind": "huber"}),
    ("step", 1, {"kind": "binary_cross_entropy"}),
    ("step", 1, {"kind": "huber"}),
)
"""Level, outputs and loss of the tasks of spec.json, which are repeated."""
NETWORKS: dict[str, dict[str, Any]] = {
    "lstm": {
        "model": {"kind": "lstm", "hidden": 96, "projection": 64},
        "tasks": LSTM_TASKS,
        "samples": 5120,
        "shape": (105, 12),
        "batch": 32,
    },
    "mlp": {
        "model": {"kind": "mlp", "hidden": [256, 256]},
        "tasks": LSTM_TASKS[:2],
        "samples": 40960,
        "shape": (64,),
        "batch": 256,
    },
}
"""By name: a network whose step takes long, and a small one, whose step shows every overhead."""


def write(folder: Path, network: str, tasks: int) -> None:
    """The samples as `data.npz`, and the spec as `spec.json`."""
    import numpy as np

    about = NETWORKS[network]
    draw = np.random.default_rng(0)
    x = draw.standard_normal((about["samples"], *about["shape"]), dtype="f4")
    arrays, sections = {"features": x}, []
    for i in range(tasks):
        level, outputs, loss = about["tasks"][i % len(about["tasks"])]
        seen = x @ draw.standard_normal(x.shape[-1], dtype="f4")
        if level == "window":
            seen = seen.reshape(len(x), -1).mean(1)
        if loss["kind"] == "cross_entropy":
            y = np.digitize(seen, np.quantile(seen, [1 / 3, 2 / 3]))
        elif loss["kind"] == "binary_cross_entropy":
            y = (seen > 0).astype("f4")
        else:
            y = np.repeat(seen[..., None], outputs, -1) if outputs > 1 else seen
        arrays[f"task_{i}"] = y
        sections.append({"name": f"task_{i}", "level": level, "outputs": outputs, "loss": loss})
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]  # its flag
    spec = {
        "name": "speed",
        "data": {"kind": "arrays", "path": "data.npz", "scale": "none"}
        | {"split": "tail", "validation": VALIDATION},
        "model": about["model"],
        "tasks": sections,
        "balance": {"kind": "fixed"},
        "optimizer": {"lr": RATE, "weight_decay": DECAY},
        "train": {"epochs": EPOCHS, "batch_size": about["batch"], "device": "cpu", "threads": 1},
    }
    (folder / "spec.json").write_text(json.dumps(spec))


@dataclass
class Split:
    """N samples: features [N, …, F], and the target of each task [N, …]."""

    x: Tensor
    targets: list[Tensor]

    def __len__(self) -> int:
        return len(self.x)

    def at(self, index: Tensor) -> Split:
        """Some of the samples."""
        return Split(self.x[index], [y[index] for y in self.targets])


@dataclass
class Problem:
    """What a program of one's own has: a network, two splits, and a loss for each task."""

    model: BuiltIn
    train: Split
    validation: Split
    kinds: list[str]
    batch: int

    def losses(self, part: Split) -> list[Tensor]:
        """The mean loss of each task."""
        import torch.nn.functional as F

        of: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "cross_entropy": F.cross_entropy,
            "huber": F.huber_loss,
            "binary_cross_entropy": F.binary_cross_entropy_with_logits,
        }
        rows = zip(self.kinds, self.model({"features": part.x}), part.targets, strict=True)
        return [of[kind](outputs, y) for kind, outputs, y in rows]

    def order(self, epoch: int) -> Tensor:
        """The order of an epoch's training samples."""
        import torch

        return torch.randperm(len(self.train), generator=torch.Generator().manual_seed(epoch))


def read(folder: Path) -> Problem:
    """The problem as a program of one's own reads it; the network is evengrad's own class."""
    import numpy as np
    import torch

    from job.data.encoding.input_info import InputInfo
    from job.model.built_in import BuiltIn
    from job.spec.read import parse_spec

    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = parse_spec((folder / "spec.json").read_text())
    assert spec.model.kind != "python"
    with np.load(folder / "data.npz") as arrays:
        x, *targets = (torch.from_numpy(arrays[name]) for name in arrays.files)
    targets = [  # a single output has no dimension of its own in the file
        y if task.outputs > 1 else y.unsqueeze(-1)
        for y, task in zip(targets, spec.tasks, strict=True)
    ]
    first = len(x) - round(VALIDATION * len(x))
    tasks = list(spec.tasks)
    return Problem(
        BuiltIn(spec.model, tasks, {"features": InputInfo()}, {"features": tuple(x.shape[1:])}),
        Split(x[:first], [y[:first] for y in targets]),
        Split(x[first:], [y[first:] for y in targets]),
        [task.loss.kind for task in tasks],
        spec.train.batch_size,
    )
