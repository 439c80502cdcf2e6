"""What the pictures of docs/diagnosis/ show: by cause, a run with the fault and its mended twin."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from job.data.dataset import load
from job.diagnose.probe import Probe, probe, probe_inputs
from job.spec.read import parse_spec, with_digests
from job.train.trainer import Trainer
from tests.support.network_problems import DATA, FAULTS, PLAIN, Arrays, OwnProblem, with_head

Plant = Callable[[Arrays], None]


@dataclass
class Run:
    """A job of a built-in network on DATA: what its spec says otherwise, and its arrays."""

    data: str = "digits"
    spec: dict[str, Any] | None = None
    tasks: dict[str, dict[str, Any]] | None = None
    plant: Plant = lambda arrays: None
    split: str = "random"

    def training(self) -> Trainer:
        """Its trainer, before the first step."""
        arrays, tasks = DATA[self.data]()
        self.plant(arrays)
        size = len(arrays["features"])
        changed = [task | (self.tasks or {}).get(task["name"], {}) for task in tasks]
        spec = {
            "name": "picture",
            "data": {"kind": "arrays", "path": "data.npz", "split": self.split},
            "model": {"kind": "mlp", "hidden": [64, 64]},
            "tasks": changed,
            "optimizer": {"lr": 3e-3},
            "train": {"epochs": 200 * 32 // size + 1, "batch_size": 32, "threads": 1},
        } | (self.spec or {})
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder) / "data.npz", **arrays)  # type: ignore[arg-type]  # its flag
            path = Path(folder) / "spec.json"
            path.write_text(json.dumps(spec))
            return training_of(path)


def training_of(path: Path) -> Trainer:
    """The trainer of a spec's probe."""
    spec = with_digests(parse_spec(path.read_text(), str(path)), path.parent)
    return Trainer(*probe_inputs(spec, load(spec, path.parent)))


def training_for(problem: Run | OwnProblem) -> Trainer:
    """The trainer of a problem's probe."""
    if isinstance(problem, Run):
        return problem.training()
    with tempfile.TemporaryDirectory() as folder:
        return training_of(problem.write(Path(folder)))


def probe_of(problem: Run | OwnProblem) -> Probe:
    """The probe of a problem, validated all along."""
    return probe(training_for(problem), validate=True)


# --- what is drawn --------------------------------------------------------------------------------

NONE = {"transform": {"kind": "none"}}


def _scaled(by: float) -> Plant:
    def plant(arrays: Arrays) -> None:
        arrays["features"] = arrays["features"] * by

    return plant


def _shuffled(name: str) -> Plant:
    """Labels of the training rows in random order; with `split: tail` the last fifth validates."""

    def plant(arrays: Arrays) -> None:
        cut = int(0.8 * len(arrays[name]))
        arrays[name][:cut] = np.random.default_rng(0).permutation(arrays[name][:cut])

    return plant


def _noise(arrays: Arrays) -> None:
    arrays["kind"] = np.random.default_rng(0).permutation(arrays["kind"])


def _copied(arrays: Arrays) -> None:
    """Noise, of which half of the last fifth stands among the rows before."""
    _noise(arrays)
    cut = int(0.8 * len(arrays["kind"]))
    held_out = np.arange(cut, len(arrays["kind"]), 2)
    for values in arrays.values():
        values[held_out] = values[: len(held_out)]


def _outliers(arrays: Arrays) -> None:
    arrays["progress"] = arrays["progress"].copy()
    arrays["progress"][:3] = 30_000


def _moved(arrays: Arrays) -> None:
    arrays["kind"], arrays["ink"] = np.roll(arrays["kind"], 1), np.roll(arrays["ink"], 1)


def _elsewhere(arrays: Arrays) -> None:
    cut = int(0.8 * len(arrays["features"]))
    features = arrays["features"].copy()
    features[cut:] = 16 - features[cut:]
    arrays["features"] = features


def _few(arrays: Arrays) -> None:
    chosen = np.r_[0:60, 342:442]
    for name in arrays:
        arrays[name] = arrays[name][chosen]


def _huge(arrays: Arrays) -> None:
    arrays["ink"] = arrays["ink"] * 1e25


def _narrow(arrays: Arrays) -> None:
    progress = arrays["progress"]
    arrays["progress"] = 1000 + 0.01 * (progress - progress.mean()) / progress.std()


def _opposed(arrays: Arrays) -> None:
    x = arrays["features"][:, 0, [2, 8]]
    arrays["far"] = (x[:, 0] - x[:, 1] > 0).astype(int)
    arrays["progress"] = x.sum(1) * 100


DETACHED = with_head(
    "self.heads[f'of_{task}'](z.detach() if task == 'kind' else z * (task == 'ink'))"
)
ONE_UNIT = {"kind": "mlp", "hidden": [1], "projection": 8}
TRAIN = {"batch_size": 32, "threads": 1}
IN_TWENTIES = {"transform": {"kind": "scale", "by": 20}}
SLOW_HEADS = {"kind": "mlp", "hidden": [64, 64], "init": {"heads": "default"}}


def _dropped(share: float) -> dict[str, Any]:
    return {"kind": "mlp", "hidden": [64, 64], "dropout": {"hidden": share, "heads": share}}


def _lr(lr: float, **more: Any) -> dict[str, Any]:
    return {"optimizer": {"lr": lr, **more}}


PAIRS: dict[str, tuple[str, Run | OwnProblem, Run | OwnProblem]] = {
    "not_finite": (
        "ink",
        Run(plant=_huge, tasks={"ink": {"loss": {"kind": "mse"}} | NONE}),
        Run(),
    ),
    "control": ("kind", Run(spec={"control": True}), Run()),
    "frozen_part": ("kind", FAULTS["frozen trunk"].faulty, FAULTS["frozen trunk"].repaired),
    "evaluation_mode": (
        "colour",
        FAULTS["dropout in evaluation"].faulty,
        FAULTS["dropout in evaluation"].repaired,
    ),
    "probabilities": ("kind", FAULTS["softmax twice"].faulty, FAULTS["softmax twice"].repaired),
    "output_range": (
        "colour",
        FAULTS["relu of a standardized target"].faulty,
        FAULTS["relu of a standardized target"].repaired,
    ),
    "constant_output": ("ink", FAULTS["softmax of one"].faulty, FAULTS["softmax of one"].repaired),
    "blocked_path": ("kind", OwnProblem(DETACHED), OwnProblem(PLAIN)),
    "targets": (
        "progress",
        Run("diabetes", tasks={"progress": NONE | {"activation": "sigmoid"}}),
        Run("diabetes"),
    ),
    "copied_samples": (
        "kind",
        Run(plant=_copied, split="tail", spec={"train": TRAIN | {"epochs": 30}}),
        Run(plant=_noise, split="tail", spec={"train": TRAIN | {"epochs": 30}}),
    ),
    "outliers": (
        "progress",
        Run("diabetes", plant=_outliers, split="tail"),
        Run("diabetes", split="tail"),
    ),
    "shifted_rows": ("kind", Run(plant=_moved), Run()),
    "wrong_labels": ("kind", Run(plant=_shuffled("kind"), split="tail"), Run(split="tail")),
    "split_shift": ("kind", Run(plant=_elsewhere, split="tail"), Run(split="tail")),
    "feature_scale": (
        "kind",
        Run(
            plant=_scaled(1e-3),
            spec={"data": {"kind": "arrays", "path": "data.npz", "scale": "none"}},
        ),
        Run(plant=_scaled(1e-3)),
    ),
    "batch_noise": (
        "kind",
        Run(
            spec={
                "balance": {"kind": "batch_mean"},
                "train": TRAIN | {"batch_size": 2, "epochs": 1},
            }
        ),
        Run(
            spec={
                "balance": {"kind": "running_mean"},
                "train": TRAIN | {"batch_size": 2, "epochs": 1},
            }
        ),
    ),
    "learning_rate": ("kind", Run(spec=_lr(1e-5)), Run(spec=_lr(3e-3))),
    "batch_norm": ("far", FAULTS["batches of two"].faulty, FAULTS["batches of two"].repaired),
    "weight_decay": ("kind", Run(spec=_lr(3e-3, weight_decay=100)), Run()),
    "dropout": ("kind", Run(spec={"model": _dropped(0.95)}), Run(spec={"model": _dropped(0.1)})),
    "clip": (
        "kind",
        Run(spec=_lr(0.05, kind="sgd") | {"train": TRAIN | {"epochs": 11, "clip": 0.001}}),
        Run(spec=_lr(0.05, kind="sgd") | {"train": TRAIN | {"epochs": 11}}),
    ),
    "batch_size": (
        "kind",
        Run(spec={"train": TRAIN | {"epochs": 8, "batch_size": 480}}),
        Run(spec={"train": TRAIN | {"epochs": 8}}),
    ),
    "initialization": (
        "progress",
        Run("diabetes", {"model": SLOW_HEADS, **_lr(3e-4)}, {"progress": IN_TWENTIES}),
        Run("diabetes", _lr(3e-4), {"progress": IN_TWENTIES}),
    ),
    "width": (
        "kind",
        Run(spec={"model": ONE_UNIT}),
        Run(spec={"model": ONE_UNIT | {"hidden": [64]}}),
    ),
    "activation": ("ink", Run(tasks={"ink": {"activation": "relu"}}), Run()),
    "too_few_steps": (
        "kind",
        Run(spec={"train": TRAIN | {"epochs": 1, "batch_size": 64}, **_lr(1e-3)}),
        Run(spec={"train": TRAIN | {"epochs": 16, "batch_size": 64}, **_lr(1e-3)}),
    ),
    "target_scale": (
        "progress",
        Run("diabetes", plant=_narrow, tasks={"progress": NONE}),
        Run("diabetes", plant=_narrow),
    ),
    "travel_budget": (
        "progress",
        Run("diabetes", {"model": SLOW_HEADS, **_lr(3e-4)}, {"progress": NONE}),
        Run("diabetes", {"model": SLOW_HEADS, **_lr(3e-4)}),
    ),
    "saturated_loss": (
        "progress",
        Run("diabetes", _lr(3e-4), {"progress": NONE | {"loss": {"kind": "huber", "delta": 0.01}}}),
        Run("diabetes", _lr(3e-4)),
    ),
    "uncertainty": (
        "ink",
        Run(
            spec={"balance": {"kind": "uncertainty", "lr": 1e-5}, **_lr(1e-3)}, tasks={"ink": NONE}
        ),
        Run(
            spec={"balance": {"kind": "uncertainty", "lr": 0.03}, **_lr(1e-3)}, tasks={"ink": NONE}
        ),
    ),
    "starved": (
        "ink",
        Run(spec={"balance": {"kind": "fixed", "weights": {"ink": 1e-6}}, "model": ONE_UNIT}),
        Run(spec={"balance": {"kind": "running_mean"}, "model": ONE_UNIT}),
    ),
    "conflict": (
        "far",
        Run("diabetes", {"model": ONE_UNIT}, plant=_opposed),
        Run("diabetes", {"model": ONE_UNIT | {"hidden": [64]}}, plant=_opposed),
    ),
    "overfitting": (
        "far",
        Run("diabetes", {"train": TRAIN | {"epochs": 120}}, plant=_few),
        Run("diabetes"),
    ),
    "uninformative": ("kind", Run(plant=_noise), Run()),
    "no_skill": ("kind", Run("wine", plant=_noise), Run("wine")),
}
"""By cause: the task that is drawn, the run with the fault and its twin."""
