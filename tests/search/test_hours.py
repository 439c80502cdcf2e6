"""The time that a search has: when no further trial begins, and what becomes of those that run."""

from __future__ import annotations

import json
import multiprocessing.dummy
import sys
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from job.search import search
from job.search.objective import Objective
from job.search.search import Search
from job.search.show import Board
from job.search.space import read_space
from job.search.study import SearchStudy
from job.search.train_trial import Ended, Order
from job.spec.read import read_spec
from tests.support.command import here
from tests.support.tiny_job import write

SKILLS = dict.fromkeys(("kind", "level", "down", "pair"), 0.5)
HOUR = 3600.0


class Clock:
    """A clock that stands until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def study(tmp_path: Path) -> SearchStudy:
    spec, path = write(tmp_path), tmp_path / "space.json"
    path.write_text(json.dumps({"optimizer.lr": {"low": 0.001, "high": 0.1}}))
    space = read_space(path, json.loads(spec.read_text()), tmp_path)
    objective = Objective.of("mean", read_spec(spec))
    return SearchStudy(InMemoryStorage(), "s", space, objective, "none")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """One that each trial moves by an hour, in place of training."""
    clock = Clock()
    monkeypatch.setattr(search, "_started", _taking_an_hour(clock))
    return clock


def _taking_an_hour(clock: Clock) -> Callable[[Order], Any]:
    def started(_: Order) -> Any:
        clock.now += HOUR
        ours, its = Pipe()
        its.send(Ended("complete", skills=SKILLS, errors=SKILLS))
        process = multiprocessing.dummy.Process(target=lambda: None)
        process.start()
        return process, ours

    return started


def test_no_trial_begins_after_the_time(study: SearchStudy, clock: Clock) -> None:
    """Within two hours and a half begin three trials of an hour, and the third goes on to its
    end; the next call has time of its own."""
    made = Search(study, "runs", 1, Board(9), clock=clock)
    made.run(9, clock() + 2.5 * HOUR)
    assert made.out_of_time
    assert [trial.state for trial in study.begun] == [TrialState.COMPLETE] * 3
    more = Search(study, "runs", 1, Board(9), clock=clock)
    more.run(4, clock() + 2.5 * HOUR)
    assert not more.out_of_time
    assert len(study.begun) == 4


def test_a_trial_that_was_left_goes_on(study: SearchStudy, clock: Clock) -> None:
    """However little time there is: it has begun."""
    study.ask()
    made = Search(study, "runs", 1, Board(9), clock=clock)
    made.run(9, clock())
    assert [trial.state for trial in study.begun] == [TrialState.COMPLETE]
    assert made.out_of_time


def test_no_time_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trains nothing, and says why and how to go on: exit code 1, as there is no best trial."""
    write(tmp_path, {"data.validation": 0.4})
    (tmp_path / "space.json").write_text('{"optimizer.lr": {"low": 0.001, "high": 0.1}}')
    monkeypatch.chdir(tmp_path)
    command = ["search", "spec.json", "--space", "space.json", "--trials", "2"]
    command += ["--hours", "0", "--objective", "level"]
    monkeypatch.setattr(sys, "argv", ["job", *command])
    code, _, err = here(capsys, *command)
    assert code == 1
    again = "python -m job " + " ".join(command)
    assert err.splitlines()[-1] == f"ended: --hours are over; to go on: {again}"
    assert not [*tmp_path.glob("runs/small/space-*")]
