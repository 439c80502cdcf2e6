"""The inputs of a network meet the weights that they had in training, in whatever order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.checkpoint.restore import load as read_checkpoint
from job.data.dataset import load as load_data
from job.errors import InputError
from job.predict import load
from job.predict.locate import locate
from job.run.start_from import with_start
from job.spec.data import Arrays
from job.spec.patch import Edit, edited
from job.spec.read import read_spec
from job.spec.stored import parse_stored
from job.train.trainer import Trainer
from tests.support.finished import finish


def job(folder: Path, inputs: Sequence[str], model: dict[str, Any] | None = None) -> Path:
    """A job whose task is the sign of the input `z`; its spec lists the inputs in this order."""
    rng = np.random.default_rng(0)
    a, z = rng.normal(size=(2, 300, 1))
    np.savez(folder / "two.npz", a=a, z=z, sign=(z[:, 0] > 0).astype(int))
    spec = {
        "name": "two",
        "data": {"kind": "arrays", "path": "two.npz", "inputs": {name: {} for name in inputs}},
        "model": {"kind": "mlp", "hidden": [8]} | (model or {}),
        "tasks": [
            {"name": "sign", "level": "sample", "outputs": 2, "loss": {"kind": "cross_entropy"}}
        ],
        "optimizer": {"lr": 0.03},
        "train": {"epochs": 5, "batch_size": 32, "device": "cpu", "threads": 1},
    }
    (folder / "two.json").write_text(json.dumps(spec))
    return folder / "two.json"


@pytest.mark.parametrize("inputs", [("z", "a"), ("a", "z")])
def test_predictions_are_of_the_order_of_training(tmp_path: Path, inputs: Sequence[str]) -> None:
    """The network joins inputs as the spec listed them."""
    run = finish(job(tmp_path, inputs))
    stored = dict(np.load(tmp_path / "two.npz"))
    predictor = load(run)
    assert list(predictor.forms) == list(inputs)
    assert (predictor.predict(stored)["sign"].classes == stored["sign"]).mean() > 0.9


def test_another_order_is_refused(tmp_path: Path) -> None:
    """Neither goes a run on with a spec of other order, nor does a new one begin with its trunk."""
    run = finish(job(tmp_path, ("z", "a")))
    other = read_spec(job(tmp_path, ("a", "z")))
    data, origin = load_data(other, tmp_path), locate(run, None, "last")
    assert other.content_hash() == origin.spec_hash
    found = read_checkpoint(origin.store, origin.run, origin.kept)
    with pytest.raises(InputError, match="joins them in the order z, a; list them so"):
        Trainer(other, data).restore(found.tensors, found.manifest.values)
    start = {"start_from": {"run": run, "parts": ["trunk"]}}
    begins = read_spec(job(tmp_path, ("a", "z"), start))
    with pytest.raises(InputError, match="joins the inputs in the order z, a; list them so"):
        with_start(data, begins, None)


def test_an_edit_and_a_stored_spec_keep_the_order(tmp_path: Path) -> None:
    """What is read back from a spec's content joins its inputs as the spec does."""
    spec = read_spec(job(tmp_path, ("z", "a")))
    changed = edited(spec, [Edit(("train", "epochs"), 2)])
    for other in (changed, parse_stored(spec.canonical(), "spec.json")):
        assert isinstance(other.data, Arrays)
        assert list(other.data.inputs or {}) == ["z", "a"]
    assert other.content_hash() == spec.content_hash()
