"""The data sets: for each a spec with targets of one scale and a plain sum, and the tasks' metrics.

Every method trains the same network for the same steps under the same rate, which was chosen for
none of them: `one_cycle` up to 0.003, AdamW. What is reported is of the test split, which neither
training nor search reads; of the prices it is the last fifth of the windows, of which the search
sees no day.
"""

from __future__ import annotations

import copy
import json
from typing import Any, NamedTuple

from job.spec import JobSpec
from job.spec.read import parse_spec

Json = dict[str, Any]
FLOWS = ("chsi2", "nasi2", "eadm7", "sclm7", "clkm7", "vali2", "napm7", "dldi4")
LABELS = tuple(f"class{i}" for i in range(1, 15))
STANDARD = {"transform": {"kind": "standardize"}}
BINARY = {"level": "sample", "loss": {"kind": "binary_cross_entropy"}, "metrics": ["auroc"]}
FLOW = {"level": "sample", "loss": {"kind": "mse"}, "metrics": ["rmse"], **STANDARD}
DIGIT = {
    "level": "sample",
    "outputs": 10,
    "loss": {"kind": "cross_entropy"},
    "metrics": ["accuracy"],
}


class Problem(NamedTuple):
    """A data set, what is trained on it, and how that is scored."""

    title: str
    spec: Json
    searched: Json
    """Values of the spec that are others in a search."""

    def spec_of(self, seed: int, tasks: list[str] | None = None) -> Json:
        """The spec of a seed; tasks: of these alone."""
        spec = copy.deepcopy(self.spec) | {"seed": seed}
        if tasks is not None:
            spec["tasks"] = [task for task in spec["tasks"] if task["name"] in tasks]
        return spec

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks."""
        return [task["name"] for task in self.spec["tasks"]]

    @property
    def metrics(self) -> dict[str, str]:
        """By task, its metric."""
        return {task["name"]: task["metrics"][0] for task in self.spec["tasks"]}

    @property
    def higher(self) -> dict[str, bool]:
        """By task, whether a higher value of its metric is better."""
        spec = parsed(self.spec)
        return {
            task.name: bool(task.higher_is_better(self.metrics[task.name])) for task in spec.tasks
        }


def parsed(spec: Json) -> JobSpec:
    """The spec, checked; raises InputError."""
    return parse_spec(json.dumps(spec))


def _spec(name: str, data: Json, model: Json, tasks: list[Json], epochs: int, batch: int) -> Json:
    return {
        "name": name,
        "data": data,
        "model": model,
        "tasks": tasks,
        "balance": {"kind": "fixed"},
        "optimizer": {"lr": 0.003},
        "train": {
            "epochs": epochs,
            "batch_size": batch,
            "schedule": "one_cycle",
            "device": "cpu",
            "threads": 1,
            "evaluate": 512,
        },
        "log": {"audit_every": 0},
    }


def _arrays(path: str, **more: Any) -> Json:
    return {"kind": "arrays", "path": path, "seed": 0, **more}


SHARES = {"validation": 0.2, "test": 0.2}
PROBLEMS = {
    "rf1": Problem(
        "RF1: flows at 8 places of a river network in 48 hours",
        _spec(
            "rf1",
            _arrays("rf1.parquet", features=["*__*"], missing="mean", **SHARES),
            {"kind": "mlp", "hidden": [64, 64]},
            [{"name": name, **FLOW} for name in FLOWS],
            epochs=12,
            batch=128,
        ),
        {},
    ),
    "yeast": Problem(
        "Yeast: 14 classes of genes",
        _spec(
            "yeast",
            _arrays("yeast.npz", **SHARES),
            {"kind": "mlp", "hidden": [64, 64], "dropout": {"hidden": 0.3}},
            [{"name": name, **BINARY} for name in LABELS],
            epochs=12,
            batch=64,
        ),
        {},
    ),
    "adult": Problem(
        "Adult: income and marital status",
        _spec(
            "adult",
            _arrays(
                "adult.parquet",
                features=[
                    *("age", "workclass", "educational-num", "occupation"),
                    *("capital-gain", "capital-loss", "hours-per-week"),
                ],
                missing="mean",
                **SHARES,
            ),
            {"kind": "mlp", "hidden": [64, 64]},
            [{"name": "income", **BINARY}, {"name": "never_married", **BINARY}],
            epochs=6,
            batch=256,
        ),
        {},
    ),
    "digits": Problem(
        "MultiMNIST: two digits in an image",
        _spec(
            "digits",
            _arrays("digits.npz", inputs={"image": {"kind": "image"}}, split={"column": "split"}),
            {"kind": "conv2d", "width": 8, "blocks": [1, 1]},
            [{"name": "left", **DIGIT}, {"name": "right", **DIGIT}],
            epochs=10,
            batch=64,
        ),
        {},
    ),
    "nasdaq": Problem(
        "NASDAQ: the strongest move in a window of prices",
        _spec(
            "nasdaq",
            {
                "kind": "ohlc_windows",
                "path": "nasdaq.csv.gz",
                "date_format": "%m/%d/%Y",
                "windows": 2400,
            },
            {
                "kind": "lstm",
                "hidden": 32,
                "projection": 32,
                "dropout": {"input": 0.1, "heads": 0.2},
            },
            [
                {
                    "name": "type",
                    "level": "window",
                    "outputs": 3,
                    "loss": {"kind": "cross_entropy"},
                    "metrics": ["accuracy"],
                },
                {
                    "name": "pointers",
                    "level": "window",
                    "outputs": 2,
                    "loss": {"kind": "huber"},
                    "metrics": ["mae"],
                    **STANDARD,
                },
                {
                    "name": "binary",
                    "level": "step",
                    "loss": {"kind": "binary_cross_entropy"},
                    "metrics": ["auroc"],
                },
                {
                    "name": "countdown",
                    "level": "step",
                    "loss": {"kind": "huber"},
                    "metrics": ["mae"],
                    **STANDARD,
                },
            ],
            epochs=8,
            batch=32,
        ),
        {"path": "before.csv.gz"},
    ),
}
