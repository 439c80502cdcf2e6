"""Every optimizer, schedule and average is whole in the state: a resume repeats bit for bit."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny_job import State, Trained, job, write

JOBS: dict[str, dict[str, Any]] = {
    "muon, warm-up, steps, average, frozen part": {
        "optimizer": {"kind": "muon", "lr": 0.01, "rates": {"*bias*": 0.02}},
        "train.warmup": 3,
        "train.schedule": {"kind": "step", "every": 1, "factor": 0.5},
        "train.ema": {"decay": 0.9},
        "model.freeze": ["*_reverse"],
    },
    "nesterov, plateau": {
        "optimizer": {"kind": "sgd", "lr": 0.1, "nesterov": True},
        "train.schedule": {"kind": "plateau", "patience": 1, "factor": 0.5},
        "balance": {"kind": "uncertainty"},
    },
    "adam, warm-up, cosine, average": {
        "optimizer": {"kind": "adam", "lr": 0.05, "weight_decay": 0.01},
        "train.warmup": 2,
        "train.schedule": "cosine",
        "train.ema": {},
    },
}


@pytest.mark.parametrize("edits", JOBS.values(), ids=JOBS)
def test_each_step_follows_from_the_state_before(tmp_path: Path, edits: dict[str, Any]) -> None:
    """From every third state, in mid-epoch or between, a new process comes to the next state."""
    write(tmp_path)
    spec, data = job(tmp_path, {**edits, "train.epochs": 4, "checkpoint.every_steps": 1})
    whole = Trained(spec, data)
    assert whole.run()
    for before, after in list(pairwise(whole.saved))[2::3]:
        resumed = Trained(spec, data)
        torch.manual_seed(before.step)  # whatever the generator was at
        before.into(resumed.training)
        resumed.run(stop_at=after.step + 1)
        assert_same(resumed.saved[0], after)


def assert_same(one: State, other: State) -> None:
    """All tensors and values are equal, bit for bit, but for the time taken."""
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name]), name
    values, values_2 = json.loads(one.values), json.loads(other.values)
    for timed in (values["position"], values_2["position"]):
        del timed["seconds"], timed["epoch_seconds"]
    assert values == values_2
