"""An evaluation loss that is not finite: an alarm, gates that fail, and a reason of its own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from job.events import Alarm
from job.train.evaluate import Losses
from job.train.state import TrainState
from tests.support.command import warm_job
from tests.support.tiny_job import HUGE, SMALL, Trained, job, write
from tests.support.warm_process import Nursery

TASKS = {"tasks": [*SMALL["tasks"], HUGE], "train.epochs": 6}
STOP = {"train.early_stop": {"task": "huge", "patience": 2}}
BEST = {"checkpoint": {"best_of": "huge"}}


def write_huge(folder: Path, edits: dict[str, Any]) -> Path:
    """A job with one validation target whose squared error overflows; no training target does."""
    path = write(folder, TASKS | edits)
    arrays = dict(np.load(folder / "small.npz"))
    huge = np.random.default_rng(1).normal(size=arrays["huge"].shape)
    huge[-1] = 1e30
    np.savez(folder / "small.npz", **arrays | {"huge": huge})
    return path


def trained(folder: Path, edits: dict[str, Any]) -> Trained:
    write_huge(folder, edits)
    run = Trained(*job(folder, TASKS | edits))
    assert run.run()
    assert math.isinf(run.epochs[0].tasks["huge"].val_loss_original)
    return run


def test_an_alarm_names_task_split_and_consequence(tmp_path: Path) -> None:
    """One alarm after the first such epoch; it says what depends on that loss."""
    run = trained(tmp_path, STOP)
    (alarm,) = (e for e in run.events if isinstance(e, Alarm) and e.kind == "not_finite")
    assert (alarm.task, alarm.step) == ("huge", 5)
    assert "its validation loss is inf" in alarm.message
    assert "early stop and best_of skip this epoch" in alarm.message


def test_a_run_that_nothing_watches_goes_on(tmp_path: Path) -> None:
    """Without early stop, best_of or a gate on it, one alarm is all that comes of it."""
    run = trained(tmp_path, {})
    assert len(run.epochs) == 6
    assert run.training.undecidable() is None
    kinds = [e.kind for e in run.events if isinstance(e, Alarm)]
    assert kinds.count("not_finite") == 1


def test_early_stop_cannot_judge_it(tmp_path: Path) -> None:
    """After `patience` epochs without a finite loss the run ends, and says that it is no verdict;
    restored from its end it is still finished."""
    run = trained(tmp_path, STOP)
    assert len(run.epochs) == 2
    assert "early stop ended the run, because the validation loss of huge is not finite" in str(
        run.training.undecidable()
    )
    again = Trained(run.training.spec, run.training.data)
    run.saved[-1].into(again.training)
    assert again.training.finished
    assert again.training.undecidable()


def test_best_of_has_kept_nothing(tmp_path: Path) -> None:
    """A best checkpoint that was asked for and never had a score is no success."""
    run = trained(tmp_path, BEST)
    assert len(run.epochs) == 6
    assert str(run.training.undecidable()).startswith("checkpoint.best_of has kept nothing")


@pytest.mark.parametrize("kind", ["skill", "drop"])
def test_a_gate_fails_and_says_why(tmp_path: Path, kind: str) -> None:
    """A gate on that loss fails with the loss as its reason; one on the training split does not."""
    gates = [{"task": "huge", kind: -9, "by_epoch": 2, "split": "validation"}]
    run = trained(tmp_path, {"gates": [*gates, {"task": "pair", "drop": -9, "by_epoch": 2}]})
    failed, passed = run.gates
    assert (failed.passed, failed.why) == (False, "the loss of huge on the validation split is inf")
    assert (passed.passed, passed.why) == (True, None)


def scored(state: TrainState, losses: list[float]) -> list[int]:
    """The number of epochs without improvement after each epoch with these validation losses."""
    stale = []
    for loss in losses:
        state.epoch += 1
        splits = dict.fromkeys(
            ("train", "validation"), Losses([loss], [loss], [0.0], torch.tensor([[loss]]))
        )
        state.remember(["a"], splits, {"a"})
        stale.append(state.stale("a"))
    return stale


def test_an_epoch_without_a_score_is_not_one_without_improvement() -> None:
    """Only finite losses count towards `patience`, and a new minimum begins both counts anew."""
    state = TrainState()
    assert scored(state, [1.0, math.inf, 2.0, math.nan, 3.0]) == [0, 0, 1, 1, 2]
    assert state.unscored == {"a": 2}
    assert scored(state, [0.5, math.inf]) == [0, 0]
    assert (state.best, state.best_epoch, state.unscored) == ({"a": 0.5}, {"a": 6}, {"a": 1})


@pytest.mark.parametrize("first", [math.inf, math.nan])
def test_nothing_is_measured_against_a_first_loss_that_is_not_finite(first: float) -> None:
    """A finite loss over an infinite first one is no perfect score."""
    state = TrainState()
    for epoch, loss in enumerate([first, 1.0], 1):
        state.epoch = epoch
        splits = dict.fromkeys(
            ("train", "validation"), Losses([loss], [loss], [0.0], torch.tensor([[loss]]))
        )
        state.remember(["a"], splits, {"*"})
        assert math.isnan(state.score["*"])
    assert state.best == {}


@pytest.mark.parametrize("edits", [STOP, BEST], ids=["early_stop", "best_of"])
def test_the_run_ends_with_a_reason_of_its_own(
    tmp_path: Path, nursery: Nursery, edits: dict[str, Any]
) -> None:
    """Exit code 1 and the reason `not_finite`, with the cause in one line."""
    path = write_huge(tmp_path, edits)
    store = str(tmp_path / "store")
    ended = warm_job(nursery, tmp_path, "run", str(path), "--json", "--store", store)
    assert ended.returncode == 1, ended.stderr
    last = json.loads(ended.stdout.splitlines()[-1])
    assert (last["event"], last["reason"], last["exit_code"]) == ("run.finished", "not_finite", 1)
    assert "the validation loss of huge" in last["error"]
