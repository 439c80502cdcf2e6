"""The diagnosis on public data sets with the commonest mistakes people make: a confusion table.

python -m tests.bench.outside --half developed --workers 2

Data and faults are not those of tests/support/planted_faults.py. A pair of data set and fault is
`developed` or `untouched` by a hash of its name; the causes were written against the former alone.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from job.data.dataset import load
from job.diagnose.diagnose import Diagnosis, diagnose
from job.spec.read import parse_spec

Array = NDArray[Any]
HELD_OUT = 0.3
"""Share of the samples that validate: the last rows, which are in random order."""


@dataclass
class Job:
    """A spec with its arrays [N, …]: features and a target for each task."""

    spec: dict[str, Any]
    arrays: dict[str, Array]

    @property
    def first_held_out(self) -> int:
        """Row at which the validation split begins."""
        return len(self.arrays["x"]) - round(HELD_OUT * len(self.arrays["x"]))

    @property
    def number(self) -> dict[str, Any]:
        """The task whose target is a number."""
        task: dict[str, Any] = self.spec["tasks"][-1]
        return task

    def diagnose(self) -> Diagnosis:
        """Store the arrays, and diagnose the spec on them."""
        with tempfile.TemporaryDirectory() as folder:
            spec = parse_spec(self.write(Path(folder)).read_text())
            return diagnose(spec, load(spec, Path(folder)))

    def write(self, folder: Path) -> Path:
        """Write the job as files; return its spec's path."""
        np.savez(folder / "data.npz", **self.arrays)  # type: ignore[arg-type]  # its flag
        (folder / "spec.json").write_text(json.dumps(self.spec))
        return folder / "spec.json"


# --- data sets ----------------------------------------------------------------------------------


def _digits(draw: np.random.Generator) -> dict[str, Array]:
    from sklearn.datasets import load_digits

    found = load_digits()
    chosen = draw.permutation(len(found.target))[:600]
    images = found.images[chosen]
    height = (images.sum(2) * np.arange(8)).sum(1) / images.sum((1, 2))
    return {"x": found.data[chosen], "kind": found.target[chosen], "number": height}


def _wine(draw: np.random.Generator) -> dict[str, Array]:
    from sklearn.datasets import load_wine

    found = load_wine()
    order = draw.permutation(len(found.target))
    x = found.data[order]
    return {"x": np.delete(x, 5, 1), "kind": found.target[order], "number": x[:, 5]}


def _cancer(draw: np.random.Generator) -> dict[str, Array]:
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    order = draw.permutation(len(found.target))
    x = found.data[order]
    return {"x": x[:, :10], "kind": found.target[order], "number": x[:, 23]}


def _diabetes(draw: np.random.Generator) -> dict[str, Array]:
    from sklearn.datasets import load_diabetes

    found = load_diabetes()
    order = draw.permutation(len(found.target))
    x, y = found.data[order], found.target[order]
    return {"x": np.delete(x, 1, 1), "kind": (x[:, 1] > 0).astype(int), "number": y}


def _friedman(draw: np.random.Generator) -> dict[str, Array]:
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(600, noise=0.5, random_state=int(draw.integers(2**31)))
    return {"x": x, "kind": (x[:, 5] + x[:, 6] > 1).astype(int), "number": y}


DATA = {
    "digits": _digits,
    "wine": _wine,
    "cancer": _cancer,
    "diabetes": _diabetes,
    "friedman": _friedman,
}


def healthy(name: str, seed: int) -> Job:
    """A job on a data set: a class and a number, both told by the features."""
    arrays = DATA[name](np.random.default_rng(seed))
    arrays["x"] = arrays["x"].astype("f4")
    arrays["number"] = arrays["number"].astype("f4")
    epochs = round(150 * 32 / (0.7 * len(arrays["x"])))
    spec = {
        "name": name,
        "seed": seed,
        "data": {"kind": "arrays", "path": "data.npz", "features": "x"}
        | {"split": "tail", "validation": HELD_OUT, "scale": "standardize"},
        "model": {"kind": "mlp", "hidden": [64, 64]},
        "tasks": [
            {"name": "kind", "level": "sample", "outputs": int(arrays["kind"].max()) + 1}
            | {"loss": {"kind": "cross_entropy"}},
            {"name": "number", "level": "sample", "loss": {"kind": "mse"}}
            | {"transform": {"kind": "standardize"}},
        ],
        "balance": {"kind": "running_mean"},
        "optimizer": {"lr": 1e-3},
        "train": {"epochs": epochs, "batch_size": 32, "threads": 1, "device": "cpu"},
    }
    return Job(copy.deepcopy(spec), arrays)


# --- faults -------------------------------------------------------------------------------------


def _set(job: Job, draw: np.random.Generator, section: str, **values: Any) -> None:
    job.spec[section] = job.spec[section] | values


def _scaled(job: Job, draw: np.random.Generator, by: float, one: bool = False) -> None:
    x = job.arrays["x"]
    which = int(x.std(0).argmax())
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    factor = np.where(np.arange(x.shape[1]) == which, by, 1.0) if one else by
    job.arrays["x"] = (x * factor).astype("f4")
    job.spec["data"]["scale"] = "none"


def _target(job: Job, draw: np.random.Generator, mean: float, deviation: float) -> None:
    y = job.arrays["number"].astype("f8")
    job.arrays["number"] = (mean + deviation * (y - y.mean()) / y.std()).astype("f4")
    job.number["transform"] = {"kind": "none"}


def _shifted_split(job: Job, draw: np.random.Generator) -> None:
    x, at = job.arrays["x"], job.first_held_out
    x[at:] = x[at:] @ np.roll(np.eye(x.shape[1]), 1, 0) + 2 * x.std(0)


def _shuffled(job: Job, draw: np.random.Generator, rows: str, tasks: tuple[str, ...]) -> None:
    at = job.first_held_out
    which = {"all": slice(None), "train": slice(0, at)}[rows]
    for name in tasks:
        job.arrays[name][which] = draw.permutation(job.arrays[name][which])


def _rolled(job: Job, draw: np.random.Generator) -> None:
    for name in ("kind", "number"):
        job.arrays[name] = np.roll(job.arrays[name], 1, 0)


def _outliers(job: Job, draw: np.random.Generator) -> None:
    y = job.arrays["number"]
    y[draw.permutation(job.first_held_out)[: max(len(y) // 200, 2)]] *= 1000


def _copies(job: Job, draw: np.random.Generator) -> None:
    at = job.first_held_out
    held_out = draw.permutation(np.arange(at, len(job.arrays["x"])))[
        : (len(job.arrays["x"]) - at) // 2
    ]
    source = draw.permutation(at)[: len(held_out)]
    for y in job.arrays.values():
        y[held_out] = y[source]


def _contradictory(job: Job, draw: np.random.Generator) -> None:
    x, at = job.arrays["x"], job.first_held_out
    x[1 : at // 2 : 2] = x[0 : at // 2 - 1 : 2][: len(x[1 : at // 2 : 2])]


def _leak(job: Job, draw: np.random.Generator) -> None:
    job.arrays["x"][:, 1] = 3 * job.arrays["number"] - 7


def _rare(job: Job, draw: np.random.Generator) -> None:
    kind = (draw.random(len(job.arrays["kind"])) < 0.04).astype(int)
    kind[:6], kind[-6:] = 1, 1
    job.arrays["kind"] = kind
    job.spec["tasks"][0]["outputs"] = 2


class Fault(NamedTuple):
    """A mistake, and the mechanisms that name it; no edit is right for one of the data."""

    make: Callable[[Job, np.random.Generator], None]
    named: tuple[str, ...]
    of_data: bool = False


_train = partial(_set, section="train")
_optimizer = partial(_set, section="optimizer")
_model = partial(_set, section="model")
BOTH = ("kind", "number")
FAULTS = {
    "healthy": Fault(lambda job, draw: None, ()),
    "rate too low": Fault(partial(_optimizer, lr=1e-5), ("learning_rate",)),
    "rate far too low": Fault(partial(_optimizer, lr=1e-6), ("learning_rate",)),
    "rate too high": Fault(partial(_optimizer, lr=0.5), ("learning_rate",)),
    "weight decay": Fault(partial(_optimizer, weight_decay=100.0), ("weight_decay",)),
    "dropout": Fault(
        partial(_model, dropout={"input": 0.0, "hidden": 0.95, "heads": 0.95}), ("dropout",)
    ),
    "clip": Fault(
        lambda job, draw: job.spec.update(
            optimizer={"kind": "sgd", "lr": 0.01}, train=job.spec["train"] | {"clip": 1e-4}
        ),
        ("clip",),
    ),
    "whole batch": Fault(
        lambda job, draw: _set(job, draw, "train", batch_size=job.first_held_out, epochs=8),
        ("batch_size", "too_few_steps"),
    ),
    "width of one": Fault(partial(_model, hidden=[64, 1]), ("width",)),
    "features small": Fault(partial(_scaled, by=1e-4), ("feature_scale",)),
    "features large": Fault(partial(_scaled, by=1e6), ("feature_scale",)),
    "one feature large": Fault(partial(_scaled, by=1e5, one=True), ("feature_scale",)),
    "target far off": Fault(
        partial(_target, mean=1000.0, deviation=0.01), ("target_scale", "travel_budget")
    ),
    "target tiny": Fault(
        partial(_target, mean=0.0, deviation=3e-7), ("target_scale", "travel_budget")
    ),
    "splits differ": Fault(_shifted_split, ("split_shift",), True),
    "labels shuffled": Fault(
        partial(_shuffled, rows="all", tasks=("number",)),
        ("uninformative", "overfitting", "no_skill", "wrong_labels"),
        True,
    ),
    "all labels shuffled": Fault(
        partial(_shuffled, rows="all", tasks=BOTH),
        ("overfitting", "no_skill", "wrong_labels"),
        True,
    ),
    "training labels shuffled": Fault(
        partial(_shuffled, rows="train", tasks=BOTH), ("wrong_labels",), True
    ),
    "rows off by one": Fault(_rolled, ("shifted_rows",), True),
    "outliers": Fault(_outliers, ("outliers",), True),
    "copies": Fault(_copies, ("copied_samples",), True),
    "contradictory": Fault(_contradictory, ("wrong_labels",), True),
    "leak": Fault(_leak, ("targets",), True),
    "rare class": Fault(_rare, ("targets",), True),
}
"""By name."""


def half(data: str, fault: str) -> str:
    """The half that a pair belongs to."""
    odd = hashlib.sha256(f"{data}:{fault}".encode()).digest()[0] % 2
    return "untouched" if odd else "developed"


def planted(data: str, fault: str, seed: int = 0) -> Job:
    """A job on a data set with a fault."""
    job = healthy(data, seed)
    FAULTS[fault].make(job, np.random.default_rng(seed + 1))
    return job


class Result(NamedTuple):
    """What a diagnosis said of a pair."""

    verdict: str
    """`named`, `silent` or `wrong`; of a healthy job `clean` or `wrong`."""
    mechanisms: list[str]
    probes: int


def result(data: str, fault: str, seed: int) -> Result:
    """Diagnose a pair. Named: by a fitting mechanism, and a fault of the data without an edit."""
    found = planted(data, fault, seed).diagnose()
    about = FAULTS[fault]
    mechanisms: list[str] = list(dict.fromkeys(f.mechanism for f in found.findings))
    if not about.named:
        verdict = "wrong" if mechanisms else "clean"
    elif about.of_data and any(f.edits and f.mechanism != "targets" for f in found.findings):
        verdict = "wrong"
    elif set(mechanisms) & set(about.named):
        verdict = "named"
    else:
        verdict = "wrong" if set(mechanisms) - {"no_skill"} else "silent"
    return Result(verdict, mechanisms, found.probes)


def main() -> None:
    """Print a line for each pair as it ends, then the table by fault."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--half", choices=("developed", "untouched"), default="untouched")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--workers", type=int, default=1)
    options.add_argument("--fault", nargs="*", default=list(FAULTS))
    asked = options.parse_args()
    pairs = [(d, f) for f in asked.fault for d in DATA if half(d, f) == asked.half]
    spawn = multiprocessing.get_context("spawn")
    results: dict[tuple[str, str], Result] = {}
    with ProcessPoolExecutor(asked.workers, spawn, torch.set_num_threads, (1,)) as pool:
        columns = (*zip(*pairs, strict=True), [asked.seed] * len(pairs))
        for pair, each in zip(pairs, pool.map(result, *columns), strict=True):
            results[pair] = each
            print(*pair, each.verdict, *each.mechanisms, each.probes, sep=" | ", flush=True)
    print("\n| fault | pairs | right | silent | wrong | said |\n|---|---|---|---|---|---|")
    for fault in asked.fault:
        mine = [each for (_, f), each in results.items() if f == fault]
        counts = Counter(each.verdict for each in mine)
        said = Counter(m.replace("_", " ") for each in mine for m in each.mechanisms)
        right = counts["named"] + counts["clean"]
        words = ", ".join(f"{m} {n}" for m, n in said.most_common())
        row = (fault, len(mine), right, counts["silent"], counts["wrong"], words)
        print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
