"""Faults planted in small problems, each with its healthy twin, in two domains.

digits: scikit-learn's 8 x 8 images, read row by row: which digit, where its ink lies, the image
without noise. walks: random walks of four features: their direction, their height, a smoothed one.
A fault is a change of the data, of the spec, or of the code that trains it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from job.data.dataset import Dataset, Split
from job.diagnose.diagnose import Build, Diagnosis, diagnose
from job.model.built_in import BuiltIn
from job.spec import JobSpec
from job.spec.read import parse_spec
from job.train.trainer import Trainer

Targets = dict[str, NDArray[Any]]
Arrays = dict[str, NDArray[Any]]
HELD_OUT = 100


@dataclass
class Problem:
    """A spec with its arrays and the function that makes its trainer."""

    spec: dict[str, Any]
    arrays: Arrays
    build: Build = field(default=Trainer)

    def diagnose(self, seed: int = 0) -> Diagnosis:
        spec = parse_spec(json.dumps(self.spec | {"seed": seed}))
        return diagnose(spec, self.data(spec), self.build)

    def data(self, spec: JobSpec) -> Dataset:
        """The arrays as a data set of the spec's tasks, the last HELD_OUT samples held out."""
        parts = slice(0, -HELD_OUT), slice(-HELD_OUT, None)
        splits = [
            Split(
                {"features": torch.from_numpy(self.arrays["features"][part]).float()},
                {task.name: _target(self.arrays[task.name][part], task) for task in spec.tasks},
            )
            for part in parts
        ]
        count = len(self.arrays["features"])
        return Dataset(splits[0], splits[1], rows=count, skipped={}, source="planted")


def _target(values: NDArray[Any], task: Any) -> Tensor:
    target = torch.from_numpy(np.asarray(values))
    return target.long() if task.loss.kind == "cross_entropy" else target.float()


SPEC: dict[str, Any] = {
    "name": "planted",
    "data": {"kind": "arrays", "path": "none.npz", "scale": "none"},
    "model": {"hidden": 16, "projection": 16, "dropout": {"input": 0.0, "heads": 0.1}},
    "balance": {"kind": "running_mean_sqrt_n"},
    "optimizer": {"lr": 3e-3, "head_lr": 1e-2},
    "train": {"epochs": 20, "batch_size": 32, "threads": 1},
}
STANDARD = {"kind": "standardize"}


def digits(seed: int = 0) -> Problem:
    """Class of an image, its centre of ink (row and column), and the image without noise."""
    from sklearn.datasets import load_digits

    images = load_digits().images[:400] / 16
    noise = np.random.default_rng(seed).normal(0, 0.3, images.shape)
    ink = images.sum((1, 2))
    rows = (images.sum(2) * np.arange(8)).sum(1) / ink
    columns = (images.sum(1) * np.arange(8)).sum(1) / ink
    arrays = {
        "features": images + noise,
        "kind": load_digits().target[:400],
        "level": np.stack([rows, columns], 1),
        "path": images,
    }
    tasks = [
        {"name": "kind", "level": "window", "outputs": 10, "loss": {"kind": "cross_entropy"}},
        _level(outputs=2, unit="pixels"),
        {"name": "path", "level": "step", "outputs": 8, "loss": {"kind": "mse"}},
    ]
    return Problem(SPEC | {"tasks": tasks}, arrays)


def walks(seed: int = 0) -> Problem:
    """Direction of a random walk, its height, and the mean of its first two features so far."""
    draw = np.random.default_rng(seed)
    x = np.cumsum(draw.normal(0, 0.4, (340, 12, 4)), 1)
    arrays = {
        "features": x,
        "kind": (x[:, -1, 0] > 0).astype(int) + (x[:, -1, 0] > 1),
        "level": x[:, :, 1:3].mean((1, 2))[:, None] * 3,
        "path": np.cumsum(x[:, :, :2].mean(2), 1)[:, :, None] / np.arange(1, 13)[None, :, None],
    }
    tasks = [
        {"name": "kind", "level": "window", "outputs": 3, "loss": {"kind": "cross_entropy"}},
        _level(),
        {"name": "path", "level": "step", "loss": {"kind": "huber"}, "transform": STANDARD},
    ]
    return Problem(SPEC | {"tasks": tasks}, arrays)


def _level(outputs: int = 1, **more: Any) -> dict[str, Any]:
    known = {"name": "level", "level": "window", "outputs": outputs, "transform": STANDARD}
    return known | {"loss": {"kind": "huber", "delta": 1.0}} | more


DOMAINS: dict[str, Callable[[int], Problem]] = {"digits": digits, "walks": walks}

# --- faults -----------------------------------------------------------------------------------


def far_off(problem: Problem) -> None:
    """Travel budget: targets that slow heads cannot come to."""
    problem.arrays["level"] = problem.arrays["level"] * 50 + 500
    _task(problem, "level")["transform"] = {"kind": "none"}
    problem.spec["optimizer"] = {"lr": 1e-3}


def saturated(problem: Problem) -> None:
    """Saturated loss: a sigmoid that is wrong where it is flat."""
    task = _task(problem, "path")
    task |= {"loss": {"kind": "mse"}, "activation": "sigmoid", "transform": {"kind": "none"}}
    path = problem.arrays["path"]
    problem.arrays["path"] = (path - path.min()) / (path.max() - path.min())
    problem.spec["optimizer"] = {"lr": 3e-3, "head_lr": 1e-3}

    def build(spec: JobSpec, data: Dataset) -> Trainer:
        training = Trainer(spec, data)
        if spec.task_names[-1] == "path" and spec.tasks[-1].activation == "sigmoid":
            _built_in(training).heads[-1].output.bias.data.fill_(12.0)
        return training

    problem.build = build


def starved(problem: Problem) -> None:
    """Starved at the trunk: a task that needs the trunk has none of its gradient."""
    problem.spec["balance"] = {"kind": "fixed", "weights": {"path": 1e-5}}
    problem.spec["model"] = problem.spec["model"] | {"hidden": 6}


def at_odds(problem: Problem) -> None:
    """Healthy: two tasks whose targets are the sum and the difference of two features."""
    x = np.random.default_rng(3).uniform(-1, 1, problem.arrays["features"].shape)
    problem.arrays["features"] = x
    problem.arrays["level"] = (x[:, :, 0] + x[:, :, 1])[:, :, None]
    problem.arrays["path"] = (x[:, :, 0] - x[:, :, 1])[:, :, None]
    step = {"level": "step", "loss": {"kind": "mse"}, "transform": STANDARD}
    problem.spec |= {
        "tasks": [{"name": "level", **step}, {"name": "path", **step}],
        "model": problem.spec["model"] | {"dropout": {"input": 0.0, "heads": 0.0}},
        "balance": {"kind": "fixed"},
        "optimizer": {"lr": 2e-2},
        "train": problem.spec["train"] | {"epochs": 30},
    }


def opposed(problem: Problem) -> None:
    """Conflict: two tasks that ask opposite things of the one feature that the trunk has."""
    at_odds(problem)
    problem.spec["model"] = problem.spec["model"] | {"hidden": 1, "bidirectional": False}


def detached(problem: Problem) -> None:
    """Blocked path: a loss that has no gradient."""

    def build(spec: JobSpec, data: Dataset) -> Trainer:
        training = Trainer(spec, data)
        loss = training.losses[1]
        whole = loss.forward

        def cut(
            outputs: Tensor,
            target: Tensor,
            shared: Tensor | None = None,
            known: Tensor | None = None,
        ) -> tuple[Tensor, Tensor]:
            return whole(outputs * 0, target, shared, known)

        loss.forward = cut  # type: ignore[method-assign]  # as a faulty edit of it would be
        return training

    problem.build = build


def frozen(problem: Problem) -> None:
    """Blocked path: a trunk that no optimizer moves."""
    problem.build = _without("trunk")


def forgotten(problem: Problem) -> None:
    """Blocked path: log variances that the optimizer was not given."""
    problem.spec["balance"] = {"kind": "uncertainty"}
    problem.build = _without("balancer")


def _without(part: str) -> Build:
    """Builds trainers whose optimizer lacks the parameters of one part of the network."""

    def build(spec: JobSpec, data: Dataset) -> Trainer:
        training = Trainer(spec, data)
        groups = training.optimizer.param_groups
        groups[:] = [group for group in groups if group["part"] != part]
        return training

    return build


def died(problem: Problem) -> None:
    """Blocked path: a projection whose ReLU never fires."""

    def build(spec: JobSpec, data: Dataset) -> Trainer:
        training = Trainer(spec, data)
        _built_in(training).heads[1].projection[0].bias.data.fill_(-50.0)  # type: ignore[union-attr, index]  # a window head
        return training

    problem.build = build


def constant(problem: Problem) -> None:
    """Targets: always the same."""
    problem.arrays["level"] = np.full_like(problem.arrays["level"], 2.5)


def out_of_range(problem: Problem) -> None:
    """Targets: beyond what the activation reaches."""
    problem.arrays["level"] = problem.arrays["level"] + 4
    _task(problem, "level").update(activation="tanh", transform={"kind": "none"})


def leaking(problem: Problem) -> None:
    """Targets: one of the features."""
    problem.arrays["path"] = problem.arrays["features"][:, :, 3:4] * 7
    _task(problem, "path").update(outputs=1, transform=STANDARD)


def rare(problem: Problem) -> None:
    """Targets: one class in all but a few samples, about which the features hold nothing."""
    draw = np.random.default_rng(5)
    problem.arrays["kind"] = (draw.random(len(problem.arrays["kind"])) < 0.03).astype(int)
    _task(problem, "kind")["outputs"] = 2


def too_fast(problem: Problem) -> None:
    """Set-up: a learning rate at which losses rise."""
    problem.spec["optimizer"] = {"lr": 0.5, "head_lr": 0.5}


def too_small_batches(problem: Problem) -> None:
    """Set-up: a balancer of the batch's own statistics, on batches of two."""
    problem.spec["balance"] = {"kind": "batch_mean"}
    problem.spec["train"] = problem.spec["train"] | {"batch_size": 2, "epochs": 2}


def too_short(problem: Problem) -> None:
    """Set-up: over before anything is learned."""
    problem.spec["train"] = problem.spec["train"] | {"epochs": 1, "batch_size": 60}
    problem.spec["optimizer"] = {"lr": 3e-3}
    problem.spec["model"] = problem.spec["model"] | {"init": {"heads": "default"}}


def by_heart(problem: Problem) -> None:
    """Set-up: noise, and all the means to learn it by heart."""
    draw = np.random.default_rng(5)
    level = problem.arrays["level"]
    problem.arrays["level"] = draw.normal(0, 1, level.shape)
    few = np.r_[0:40, len(level) - HELD_OUT : len(level)]
    problem.arrays = {name: values[few] for name, values in problem.arrays.items()}
    problem.spec["model"] = {
        "hidden": 48,
        "projection": 64,
        "dropout": {"input": 0.0, "heads": 0.0},
    }
    problem.spec["train"] = problem.spec["train"] | {"epochs": 100, "batch_size": 20}


def noise(problem: Problem) -> None:
    """Uninformative: classes that have nothing to do with the features."""
    count = len(problem.arrays["kind"])
    problem.arrays["kind"] = np.random.default_rng(5).integers(0, 2, count)
    _task(problem, "kind")["outputs"] = 2
    problem.spec["model"] = problem.spec["model"] | {"dropout": {"input": 0.8, "heads": 0.9}}
    problem.spec["optimizer"] = {"lr": 3e-4, "head_lr": 1e-2}


def sigma_frozen(problem: Problem) -> None:
    """Uncertainty weighting: log variances too slow to bring up a task of a small loss."""
    problem.spec["balance"] = {"kind": "uncertainty", "lr": 1e-5}
    problem.spec["model"] = problem.spec["model"] | {"hidden": 8}
    _task(problem, "path")["transform"] = {"kind": "scale", "by": 10.0}


class Fault(NamedTuple):
    """A planted fault and the finding that is expected."""

    plant: Callable[[Problem], None]
    mechanism: str
    task: str | None
    """The finding's task; None for the whole run or any task."""
    says: str
    """Part of the evidence or the remedy."""


FAULTS = {
    "far_off": Fault(far_off, "travel_budget", "level", "a step of AdamW"),
    "saturated": Fault(saturated, "saturated_loss", "path", "wrong where its sigmoid is flat"),
    "starved": Fault(starved, "starved", "path", "weight ×0.00"),
    "opposed": Fault(opposed, "conflict", None, "their mean cosine is -0."),
    "detached": Fault(detached, "blocked_path", "level", ".detach()"),
    "frozen": Fault(frozen, "blocked_path", None, "does not update model.trunk"),
    "forgotten": Fault(forgotten, "blocked_path", None, "balancer.log_variance"),
    "died": Fault(died, "dead_units", "level", "give 0 for every sample"),
    "constant": Fault(constant, "targets", "level", "is 2.5 in all"),
    "out_of_range": Fault(out_of_range, "targets", "level", "the range of its activation tanh"),
    "leaking": Fault(leaking, "targets", "path", "feature 3 has a rank correlation of 1.0000"),
    "rare": Fault(rare, "targets", "kind", "one class is right for 9"),
    "too_fast": Fault(too_fast, "learning_rate", None, "at lr 0.5"),
    "too_small_batches": Fault(too_small_batches, "batch_noise", None, "from one batch of 2"),
    "too_short": Fault(too_short, "too_few_steps", None, "the run is over after"),
    "by_heart": Fault(by_heart, "overfitting", None, "learned by heart"),
    "sigma_frozen": Fault(sigma_frozen, "uncertainty", None, "at that pace"),
    "noise": Fault(noise, "uninformative", "kind", "when trained alone"),
}
"""By name."""


def weighed(kind: str, **more: Any) -> Callable[[Problem], None]:
    """Healthy: another balancer, on batches that it can bear."""

    def plant(problem: Problem) -> None:
        problem.spec["balance"] = {"kind": kind, **more}

    return plant


HEALTHY: dict[str, Callable[[Problem], None]] = {
    "healthy": lambda problem: None,
    "at_odds": at_odds,
    "batch_mean": weighed("batch_mean"),
    "uncertainty": weighed("uncertainty", lr=0.03),
    "gradient_norm": weighed("gradient_norm"),
}
"""Problems without any fault."""


def planted(domain: str, name: str, seed: int = 0) -> Problem:
    """A problem of a domain with one of FAULTS, or one of HEALTHY."""
    problem = copy.deepcopy(DOMAINS[domain](seed))
    plant: Callable[[Problem], None] = HEALTHY[name] if name in HEALTHY else FAULTS[name].plant
    plant(problem)
    return problem


def _built_in(training: Trainer) -> BuiltIn:
    assert isinstance(training.model, BuiltIn)
    return training.model


def _task(problem: Problem, name: str) -> dict[str, Any]:
    problem.spec = copy.deepcopy(problem.spec)
    task: dict[str, Any] = next(t for t in problem.spec["tasks"] if t["name"] == name)
    return task
