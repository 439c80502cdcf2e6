"""The diagnosis of built-in networks: real digits, of which each kind learns something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from job.data.dataset import load
from job.diagnose.diagnose import diagnose
from job.spec.read import parse_spec

KINDS: dict[str, dict[str, Any]] = {
    "conv2d": {"kind": "conv2d", "width": 8},
    "transformer": {"kind": "transformer", "width": 24},
    "mmoe": {"kind": "mlp", "experts": {"kind": "mmoe"}},
    "ple": {"kind": "mlp", "experts": {"kind": "ple", "levels": 2}},
}


def spec_of(folder: Path, kind: str, **train: Any) -> Any:
    """A job that names a digit and where its ink lies."""
    images = load_digits().images
    rows = (images.sum(2) * np.arange(8)).sum(1) / images.sum((1, 2))
    np.savez(folder / "d.npz", image=images.astype("u1"), digit=load_digits().target, row=rows)
    source = {"kind": "image"} if kind == "conv2d" else {"kind": "numbers"}
    return parse_spec(
        json.dumps(
            {
                "name": "digits",
                "data": {"kind": "arrays", "path": "d.npz", "inputs": {"image": source}},
                "model": KINDS[kind],
                "tasks": [
                    {"name": "digit", "level": "sample", "outputs": 10}
                    | {"loss": {"kind": "cross_entropy"}},
                    {"name": "row", "level": "sample", "loss": {"kind": "mse"}}
                    | {"transform": {"kind": "standardize"}},
                ],
                "train": {"epochs": 6, "batch_size": 32, "threads": 1} | train,
            }
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["conv2d", "transformer", "ple"])
def test_healthy_networks_are_clean(kind: str, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, kind)
    found = diagnose(spec, load(spec, tmp_path))
    assert found.findings == []


@pytest.mark.slow
def test_far_targets_are_named_behind_deep_heads(tmp_path: Path) -> None:
    """A target that is not standardized, far from what the head can reach in the steps it has."""
    spec = spec_of(tmp_path, "mmoe", epochs=1)
    content = json.loads(spec.canonical())
    content["tasks"][1]["transform"] = {"kind": "none"}
    content["model"]["init"] = {"heads": "default"}
    with np.load(tmp_path / "d.npz") as stored:
        arrays = dict(stored)
    np.savez(tmp_path / "d.npz", **arrays | {"row": arrays["row"] * 3000})
    far = parse_spec(json.dumps(content))
    found = diagnose(far, load(far, tmp_path)).findings
    assert ("travel_budget", "row") in [(each.mechanism, each.task) for each in found]
