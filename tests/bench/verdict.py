"""How often noise passes a gate of skill > 0, and how often something learnable does.

    python -m tests.bench.verdict [--problems 40] [--first 0] [--workers 2]

Every problem has its own seed, data, number of tasks, and network in training. In a problem of
noise nothing can be learned: the features are noise, or the targets are permuted between samples,
or both, or the features are those of another series of prices. Rows are in markdown; a problem
passes if any one of its tasks does. Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from job.data.dataset import Dataset, Split, load
from job.events import Epoch, EpochTask
from job.spec import JobSpec
from job.spec.read import parse_spec
from job.train.trainer import Trainer

ROOT = Path(__file__).parents[2]
NOISE = ("features are noise", "targets are permuted", "both")
UNRELATED, LEARNABLE = "features of other prices", "learnable"
EPOCHS = 8
Array = NDArray[Any]


class Found(NamedTuple):
    """What one problem showed: the number of its tasks that pass each rule."""

    kind: str
    data: str
    tasks: int
    untold: int
    """Tasks whose skill the validation split cannot tell."""
    passed: dict[str, int]
    """By rule."""


RULES = {
    "validation, beyond its error": lambda t: (t.val_skill_low or -1.0) > 0,
    "validation, error ignored": lambda t: (t.val_skill or -1.0) > 0,
    "training, beyond its error": lambda t: (t.skill_low or -1.0) > 0,
}

# --- problems -----------------------------------------------------------------------------------


def arrays(seed: int, tasks: int, kind: str, folder: Path) -> tuple[JobSpec, Dataset]:
    """Samples [N, T, F] with targets of many kinds: classes, rare ones, heavy tails, per step."""
    random = np.random.default_rng(seed)
    n, steps = int(random.choice([240, 480, 960])), int(random.choice([1, 6]))
    x = random.normal(size=(n, steps, 8)).astype("f4")
    made = [_target(random, x, i) for i in random.permutation(7)[:tasks] % 7]
    made += [_target(random, x, i % 7) for i in range(tasks - len(made))]
    named = {f"task{i}": (target, section) for i, (target, section) in enumerate(made)}
    stored: dict[str, Any] = {name: y for name, (y, _) in named.items()}
    np.savez(folder / "data.npz", features=x, **stored)
    spec = _spec(
        {"kind": "arrays", "path": "data.npz", "split": str(random.choice(["tail", "random"]))},
        [{"name": name, **section} for name, (_, section) in named.items()],
        seed,
    )
    return spec, _spoiled(load(spec, folder), kind, seed)


def _target(random: np.random.Generator, x: Array, kind: int) -> tuple[Array, dict[str, Any]]:
    """A target that a network can learn from x, and its task."""
    score = x.mean(1) @ random.normal(size=8) + 0.5 * random.normal(size=len(x))
    per_step = np.tanh(x @ random.normal(size=8)) + 0.5 * random.normal(size=x.shape[:2])
    window, step = {"level": "window"}, {"level": "step"}
    mse, bce = {"loss": {"kind": "mse"}}, {"loss": {"kind": "binary_cross_entropy"}}
    standard = {"transform": {"kind": "standardize"}}
    match kind:
        case 0:
            classes = np.digitize(score, np.quantile(score, [0.3, 0.8]))
            return classes, window | {"outputs": 3, "loss": {"kind": "cross_entropy"}}
        case 1:
            return (score > np.quantile(score, 0.97)).astype("f4")[:, None], window | bce
        case 2:
            return score[:, None], window | mse | standard
        case 3:
            heavy = np.sign(score) * np.abs(score) ** 3
            return heavy[:, None], window | mse | standard
        case 4:
            return np.exp(score)[:, None], window | {"loss": {"kind": "huber"}} | standard
        case 5:
            return (per_step > 0.8).astype("f4")[..., None], step | bce
        case _:
            return np.cumsum(per_step, 1)[..., None], step | {"loss": {"kind": "mae"}} | standard


def windows(seed: int, tasks: int, kind: str, folder: Path) -> tuple[JobSpec, Dataset]:
    """Windows of NASDAQ bars, which overlap."""
    random = np.random.default_rng(seed)
    sections: list[dict[str, Any]] = [
        {"name": "type", "level": "window", "outputs": 3, "loss": {"kind": "cross_entropy"}},
        {"name": "countdown", "level": "step", "loss": {"kind": "huber"},
         "transform": {"kind": "standardize"}},
        {"name": "binary", "level": "step", "loss": {"kind": "binary_cross_entropy"}},
        {"name": "pointers", "level": "window", "outputs": 2, "loss": {"kind": "huber"},
         "transform": {"kind": "standardize"}},
        {"name": "start", "level": "window", "loss": {"kind": "mae"},
         "transform": {"kind": "standardize"}},
    ]  # fmt: skip
    where = {"path": str(ROOT / "docker/nasdaq.csv.gz"), "date_format": "%m/%d/%Y"}
    data = {"kind": "ohlc_windows", **where, "windows": int(random.choice([210, 420, 840]))}
    spec = _spec(data, sections[:tasks], seed)
    dataset = load(spec, folder)
    if kind != UNRELATED:
        return spec, _spoiled(dataset, kind, seed)
    _write_bars(folder / "bars.csv", seed)
    other = spec.model_copy(
        update={"data": spec.data.model_copy(update={"path": "bars.csv", "date_format": None})}
    )
    return spec, _with_features(dataset, load(other, folder))


def _write_bars(path: Path, seed: int, count: int = 5031) -> None:
    """Bars of a process without memory of direction: GARCH(1, 1) days of 20 steps, Student's t."""
    random = np.random.default_rng(seed)
    variance, last = 1e-4, 0.0
    lines = ["date,open,high,low,close"]
    for day in range(count):
        moves = random.standard_t(5, 20) * np.sqrt(variance / 20 * 3 / 5)
        course = last + np.cumsum(moves)
        prices = 1000 * np.exp([course[0], course.max(), course.min(), course[-1]])
        date = np.datetime64("2000-01-01") + day
        lines.append(f"{date},{','.join(f'{price:.6f}' for price in prices)}")
        variance = min(2e-6 + 0.08 * (course[-1] - last) ** 2 + 0.9 * variance, 25e-4)
        last = course[-1]
    path.write_text("\n".join(lines) + "\n")


def _spec(data: dict[str, Any], tasks: list[dict[str, Any]], seed: int) -> JobSpec:
    return parse_spec(
        json.dumps(
            {
                "name": "noise",
                "seed": seed,
                "data": data,
                "model": {"hidden": 16, "projection": 16, "dropout": {"input": 0.0, "heads": 0.0}},
                "tasks": tasks,
                "balance": {"kind": "running_mean_sqrt_n"},
                "optimizer": {"lr": 0.003},
                "train": {"epochs": EPOCHS, "batch_size": 16, "threads": 1, "device": "cpu"},
                "log": {"audit_every": 0},
            }
        )
    )


def _spoiled(data: Dataset, kind: str, seed: int) -> Dataset:
    """The data with features or targets that tell nothing of each other."""
    generator = torch.Generator().manual_seed(seed)

    def spoil(split: Split) -> Split:
        features, targets = split.inputs["features"], split.targets
        if kind in (NOISE[0], NOISE[2]):
            features = torch.randn(features.shape, generator=generator)
        if kind in NOISE[1:]:
            order = torch.randperm(len(features), generator=generator)
            targets = {name: y[order] for name, y in targets.items()}
        return replace(split, inputs={"features": features}, targets=targets)

    return replace(data, train=spoil(data.train), validation=spoil(data.validation))


def _with_features(data: Dataset, other: Dataset) -> Dataset:
    return replace(
        data,
        train=replace(data.train, inputs=other.train.inputs),
        validation=replace(data.validation, inputs=other.validation.inputs),
    )


# --- the table ----------------------------------------------------------------------------------


def solve(seed: int, learnable: bool) -> Found:
    """Train one problem and read its last epoch."""
    torch.set_num_threads(1)
    of_arrays = seed % 2 == 0
    kinds = NOISE if of_arrays else (*NOISE, UNRELATED)
    kind = LEARNABLE if learnable else kinds[seed // 2 % len(kinds)]
    make = arrays if of_arrays else windows
    tasks = 2 + seed // 2 % (7 if of_arrays else 4)
    last: dict[str, EpochTask] = {}
    with tempfile.TemporaryDirectory() as folder:
        training = Trainer(*make(seed, tasks, kind, Path(folder)))
        training.run(
            lambda event: last.update(event.tasks) if isinstance(event, Epoch) else None,
            lambda: None,
            lambda: False,
        )
    passed = {name: sum(map(rule, last.values())) for name, rule in RULES.items()}
    untold = sum(task.val_skill is None for task in last.values())
    return Found(kind, "arrays" if of_arrays else "windows", len(last), untold, passed)


def solve_all(seeds: Sequence[int], learnable: bool, workers: int) -> list[Found]:
    """Solve the problems, so many at a time."""
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        return list(pool.map(solve, seeds, [learnable] * len(seeds)))


def table(found: Iterable[Found]) -> str:
    """A row for each kind of problem and of data."""
    rows: dict[tuple[str, str], list[Found]] = {}
    for each in found:
        rows.setdefault((each.kind, each.data), []).append(each)
    lines = [["kind", "data", "problems", "tasks", "cannot tell", *RULES]]
    lines.append(["---"] * len(lines[0]))
    for (kind, data), group in sorted(rows.items()):
        counts = (len(group), sum(f.tasks for f in group), sum(f.untold for f in group))
        lines.append([kind, data, *map(str, counts), *(_rate(group, rule) for rule in RULES)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def passing(found: Iterable[Found], rule: str) -> int:
    """Problems of which any task passes."""
    return sum(each.passed[rule] > 0 for each in found)


def _rate(found: Sequence[Found], rule: str) -> str:
    n, k, z = len(found), passing(found, rule), 1.96
    centre, around = (
        k / n + z * z / (2 * n),
        z * math.sqrt(k * (n - k) / n**3 + z * z / (4 * n * n)),
    )
    low, high = ((centre + sign * around) / (1 + z * z / n) for sign in (-1, 1))
    return f"{k} of {n} ({max(low, 0):.0%} to {min(high, 1):.0%})"


def main(arguments: Sequence[str]) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--problems", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="seed of the first problem")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args(arguments)
    seeds = range(given.first, given.first + given.problems)
    for title, learnable in (("Noise", False), ("Learnable", True)):
        found = solve_all(seeds, learnable, given.workers)
        print(f"{title}: problems of which any task passes a gate of skill > 0\n")
        print(table(found), end="\n\n")
        for rule in RULES:
            print(f"{rule}: {_rate(found, rule)}")
        print(flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
