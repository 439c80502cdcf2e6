"""Networks of one's own over scikit-learn's data: sound ones, and faulty ones with their twins.

digits: which digit an 8 x 8 image shows, and how much ink it has. wine: which of three growers, and
its colour. diabetes: how far the disease will progress, and whether far.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes, load_digits, load_wine

from job.data.dataset import load
from job.diagnose.diagnose import Diagnosis, diagnose
from job.spec.read import parse_spec, with_digests

Arrays = dict[str, NDArray[Any]]
STANDARD = {"kind": "standardize"}
HEAD = """\
import math

import torch
import torch.nn.functional as F
from torch import nn


class Network(nn.Module):
    def __init__(self, tasks, inputs):
        super().__init__()
        shape = inputs["features"].shape
        self.layers(math.prod(shape), shape)
        self.heads = nn.ModuleDict({f"of_{t.name}": nn.Linear(32, t.outputs) for t in tasks})

    def head(self, task, z, inputs):
        return self.heads[f"of_{task}"](z)
"""
TAIL = """

def build(tasks, inputs):
    return Network(tasks, inputs)
"""
PLAIN = """\

    def layers(self, width, shape):
        self.first = nn.Linear(width, 64)
        self.second = nn.Linear(64, 32)

    def trunk(self, inputs):
        x = F.relu(self.first(inputs["features"].flatten(1)))
        return torch.relu(self.second(x))
"""
NORMED = """\

    def layers(self, width, shape):
        self.encoder = nn.Sequential(
            nn.Linear(width, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 32)
        )

    def trunk(self, inputs):
        return self.encoder(inputs["features"].flatten(1))
"""
RESIDUAL = """\

    def layers(self, width, shape):
        self.entry = nn.Linear(width, 32)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
            for _ in range(6)
        )

    def trunk(self, inputs):
        x = self.entry(inputs["features"].flatten(1))
        for block in self.blocks:
            x = x + block(x)
        return x
"""
ATTENTION = """\

    def layers(self, width, shape):
        self.entry = nn.Linear(shape[-1], 32)
        self.place = nn.Parameter(torch.zeros(shape[0], 32))
        self.attention = nn.MultiheadAttention(32, 4, dropout=0.1, batch_first=True)
        self.norm = nn.LayerNorm(32)

    def trunk(self, inputs):
        x = self.entry(inputs["features"]) + self.place
        return self.norm(x + self.attention(x, x, x, need_weights=False)[0]).mean(1)
"""
CONV = """\

    def layers(self, width, shape):
        self.convs = nn.Sequential(
            nn.Conv1d(shape[-1], 24, 3, padding=1), nn.BatchNorm1d(24), nn.ReLU(inplace=True),
            nn.Conv1d(24, 32, 3, padding=1), nn.BatchNorm1d(32), nn.ReLU(inplace=True),
        )

    def trunk(self, inputs):
        return self.convs(inputs["features"].transpose(1, 2)).mean(2)
"""
SOUND = {
    "plain": PLAIN,
    "normed": NORMED,
    "residual": RESIDUAL,
    "attention": ATTENTION,
    "conv": CONV,
}
"""Sound networks: ReLU as a function, BatchNorm and Dropout, GELU and residuals, attention."""


def digits() -> tuple[Arrays, list[dict[str, Any]]]:
    """600 images, and the tasks."""
    data = load_digits()
    images = data.images[:600]
    arrays = {"features": images, "kind": data.target[:600], "ink": images.mean((1, 2))}
    return arrays, [_classes("kind", 10), _number("ink")]


def wine() -> tuple[Arrays, list[dict[str, Any]]]:
    """178 wines, shuffled, and the tasks; the colour is not among the features."""
    data = load_wine()
    order = np.random.default_rng(0).permutation(len(data.data))
    x = data.data[order]
    colour = data.feature_names.index("color_intensity")
    arrays = {
        "features": np.delete(x, colour, 1)[:, None],
        "kind": data.target[order],
        "colour": x[:, colour],
    }
    return arrays, [_classes("kind", 3), _number("colour")]


def diabetes() -> tuple[Arrays, list[dict[str, Any]]]:
    """442 patients, and the tasks."""
    data = load_diabetes()
    far = data.target > np.median(data.target)
    arrays = {"features": data.data[:, None], "far": far.astype(int), "progress": data.target}
    yes_no = {"name": "far", "level": "window", "loss": {"kind": "binary_cross_entropy"}}
    return arrays, [yes_no, _number("progress")]


def _classes(name: str, outputs: int) -> dict[str, Any]:
    return {"name": name, "level": "window", "outputs": outputs, "loss": {"kind": "cross_entropy"}}


def _number(name: str) -> dict[str, Any]:
    return {"name": name, "level": "window", "loss": {"kind": "huber"}, "transform": STANDARD}


DATA: dict[str, Callable[[], tuple[Arrays, list[dict[str, Any]]]]] = {
    "digits": digits,
    "wine": wine,
    "diabetes": diabetes,
}


@dataclass
class OwnProblem:
    """A network's source, the data that it is for, and what its spec says otherwise."""

    source: str
    data: str = "digits"
    spec: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name, what a task says otherwise."""

    def write(self, folder: Path) -> Path:
        """Write spec, data and network; returns the spec's path."""
        arrays, tasks = DATA[self.data]()
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub wants bools
        (folder / "network.py").write_text(HEAD + self.source + TAIL)
        size = len(arrays["features"])
        spec = {
            "name": "own",
            "data": {"kind": "arrays", "path": "data.npz"},
            "model": {"kind": "python", "file": "network.py"},
            "tasks": [task | self.tasks.get(task["name"], {}) for task in tasks],
            "optimizer": {"lr": 3e-3},
            "train": {"epochs": 200 * 32 // size + 1, "batch_size": 32, "threads": 1},
        }
        path = folder / "spec.json"
        path.write_text(json.dumps(spec | self.spec))
        return path

    def diagnose(self, folder: Path, seed: int = 0) -> Diagnosis:
        """Write and diagnose it."""
        path = self.write(folder)
        spec = with_digests(parse_spec(path.read_text(), str(path)), folder)
        spec = spec.model_copy(update={"seed": seed})
        return diagnose(spec, load(spec, folder))


class OwnFault(NamedTuple):
    """A planted fault, its repaired twin, and the finding that is expected."""

    faulty: OwnProblem
    repaired: OwnProblem
    mechanism: str
    says: str
    """Part of the evidence or the remedy."""


def _edited(old: str, new: str, source: str = PLAIN) -> str:
    """A source with one place changed."""
    assert source.count(old) == 1
    return source.replace(old, new)


def with_head(last: str, source: str = PLAIN) -> str:
    """A source whose head ends in one more function."""
    return (
        source
        + f"""
    def head(self, task, z, inputs):
        return {last}
"""
    )


LINEAR = "self.heads[f'of_{task}'](z)"
STACK = """\

    def layers(self, width, shape):
        self.stack = nn.Sequential()
        for k in range(DEPTH):
            linear = nn.Linear(width if k == 0 else 32, 32)
            INIT
            self.stack += nn.Sequential(linear, nn.ACTIVATION())

    def trunk(self, inputs):
        return self.stack(inputs["features"].flatten(1))
"""


def _stack(depth: int, activation: str, init: str = "pass") -> str:
    """A stack of layers."""
    made = STACK.replace("DEPTH", str(depth)).replace("nn.ACTIVATION", f"nn.{activation}")
    return made.replace("INIT", init)


SINKING = """\

    def layers(self, width, shape):
        self.first, self.second = nn.Linear(width, 64), nn.Linear(64, 32)
        self.register_buffer("calls", torch.zeros(()))

    def trunk(self, inputs):
        self.calls += self.training / 2  # a threshold that rises in each step
        x = F.relu(self.first(inputs["features"].flatten(1)))
        return torch.relu(self.second(x) - self.calls)
"""
SGD = {"optimizer": {"kind": "sgd", "lr": 0.1, "momentum": 0.9}}
RAW = {"transform": {"kind": "none"}}
FAULTS: dict[str, OwnFault] = {
    "frozen trunk": OwnFault(
        OwnProblem(
            _edited(
                "64, 32)\n",
                "64, 32)\n        for layer in (self.first, self.second):\n"
                "            layer.requires_grad_(False)\n",
            )
        ),
        OwnProblem(PLAIN),
        "frozen_part",
        "first.weight, first.bias, second.weight",
    ),
    "never in training mode": OwnFault(
        OwnProblem(
            NORMED + "\n    def train(self, mode=True):\n        return super().train(False)\n"
        ),
        OwnProblem(NORMED),
        "evaluation_mode",
        "encoder.1, encoder.3 stay in evaluation mode",
    ),
    "dropout in evaluation": OwnFault(
        OwnProblem(_edited("torch.relu(self.second(x))", "self.second(F.dropout(x, 0.5))"), "wine"),
        OwnProblem(
            _edited("torch.relu(self.second(x))", "self.second(F.dropout(x, 0.5, self.training))"),
            "wine",
        ),
        "evaluation_mode",
        "the first layer with other outputs is second (network.py:",
    ),
    "softmax twice": OwnFault(
        OwnProblem(with_head(f"{LINEAR}.softmax(-1) if task == 'kind' else {LINEAR}")),
        OwnProblem(with_head(f"{LINEAR}.log_softmax(-1) if task == 'kind' else {LINEAR}")),
        "probabilities",
        "stay between 0 and 1 and sum to 1",
    ),
    "sigmoid twice": OwnFault(
        OwnProblem(with_head(f"{LINEAR}.sigmoid() if task == 'far' else {LINEAR}"), "diabetes"),
        OwnProblem(PLAIN, "diabetes"),
        "probabilities",
        "applies a sigmoid to them once more",
    ),
    "tanh of logits": OwnFault(
        OwnProblem(with_head(f"{LINEAR}.tanh()")),
        OwnProblem(with_head(f"10 * {LINEAR}.tanh()")),
        "output_range",
        "needs numbers without limits",
    ),
    "relu of a standardized target": OwnFault(
        OwnProblem(with_head(f"{LINEAR}.relu() if task == 'colour' else {LINEAR}"), "wine"),
        OwnProblem(
            with_head(f"{LINEAR}.relu() if task == 'colour' else {LINEAR}"),
            "wine",
            tasks={"colour": {"transform": {"kind": "scale", "by": 5.0}}},
        ),
        "output_range",
        "stay between 0 and ∞",
    ),
    "sigmoid of hundreds": OwnFault(
        OwnProblem(
            with_head(f"{LINEAR}.sigmoid() if task == 'progress' else {LINEAR}"),
            "diabetes",
            tasks={"progress": RAW},
        ),
        OwnProblem(
            with_head(f"{LINEAR}.sigmoid() if task == 'progress' else {LINEAR}"),
            "diabetes",
            tasks={"progress": {"transform": {"kind": "scale", "by": 400.0}}},
        ),
        "output_range",
        "to 346. No training brings an output there",
    ),
    "dead from the start": OwnFault(
        OwnProblem(_edited("torch.relu(self.second(x))", "torch.relu(self.second(x) - 20)")),
        OwnProblem(PLAIN),
        "dead_units",
        "before the first step",
    ),
    "dies in training": OwnFault(OwnProblem(SINKING), OwnProblem(PLAIN), "dead_units", "after 165"),
    "softmax of one": OwnFault(
        OwnProblem(with_head(f"{LINEAR}.softmax(-1) if task == 'ink' else {LINEAR}")),
        OwnProblem(PLAIN),
        "constant_output",
        "a softmax over a single output",
    ),
    "batches of two": OwnFault(
        OwnProblem(NORMED, "diabetes", {"train": {"epochs": 4, "batch_size": 2, "threads": 1}}),
        OwnProblem(RESIDUAL, "diabetes", {"train": {"epochs": 4, "batch_size": 2, "threads": 1}}),
        "batch_norm",
        "each batch of 2",
    ),
    "deep sigmoids": OwnFault(
        OwnProblem(_stack(10, "Sigmoid")),
        OwnProblem(_stack(4, "GELU")),
        "vanishing",
        "put a LayerNorm in front of each layer",
    ),
    "tiny start": OwnFault(
        OwnProblem(_stack(6, "Tanh", "nn.init.normal_(linear.weight, std=1e-4)"), spec=SGD),
        OwnProblem(_stack(6, "Tanh"), spec=SGD),
        "vanishing",
        "start the weights as torch does",
    ),
    "units that are one": OwnFault(
        OwnProblem(_stack(2, "ReLU", "nn.init.constant_(linear.weight, 1.0)")),
        OwnProblem(_stack(2, "ReLU")),
        "initialization",
        "all 32 units of stack.0, stack.2 start with the same weights",
    ),
    "huge start": OwnFault(
        OwnProblem(_stack(4, "ReLU", "nn.init.normal_(linear.weight, std=3.0)")),
        OwnProblem(_stack(4, "ReLU")),
        "exploding",
        "start their weights smaller",
    ),
}
"""By name."""
