"""A run that goes on with another for longer."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from job.errors import InputError
from job.run.extend import extension, schedule_words
from job.spec.read import parse_spec
from job.train.state import TrainState
from tests.support.runs import EVERYTHING, Run
from tests.support.tiny_job import STEPS, job, write
from tests.support.warm_process import Nursery, until

SHORT, LONG = 2, 4
EDITS = EVERYTHING | {
    "train.schedule": "constant",
    "checkpoint.best_of": "*",
    "gates": [{"task": "kind", "drop": -9.0, "by_epoch": 2}],
}
"""Of both runs: every part of training that has a state."""
CONTINUED = ("step", "epoch", "predictions", "test")


def spec_of(folder: Path, epochs: int, edits: dict[str, Any] | None = None) -> Path:
    return write(folder, EDITS | {"train.epochs": epochs} | (edits or {}), f"{epochs}.json")


pytestmark = pytest.mark.slow
"""Two whole runs come first."""


@pytest.fixture(scope="module")
def runs(warm: Nursery, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    """A run of 2 epochs and one of 4, in one store."""
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    for epochs in (SHORT, LONG):
        made[epochs] = Run(warm, spec_of(folder, epochs), str(folder / "store"), f"r{epochs}")
        process = made[epochs].start()
        assert process.wait() == 0, process.err
    return made


def progress(run: Run) -> list[dict[str, Any]]:
    """The run's end after the shorter run's last step."""
    return [e for e in run.end().progress if e.get("step", LONG * STEPS) > SHORT * STEPS]


def test_it_equals_a_run_of_all_epochs(runs: dict[int, Run], nursery: Nursery) -> None:
    """2 epochs extended to 4 are 4, bit for bit; what went before is referenced, not repeated."""
    whole = runs[LONG]
    longer = Run(nursery, whole.spec, whole.url, "longer")
    process = longer.start("--extend", "r2")
    assert process.wait() == 0, process.err
    assert "goes on with run small/r2 after step 10, epoch 2" in process.err
    assert (longer.end().model, longer.end().state) == (whole.end().model, whole.end().state)
    assert progress(longer) == progress(whole) == longer.end().progress
    result, other = longer.result(), whole.result()
    assert result is not None
    assert other is not None
    assert result["gates"] == other["gates"]
    [started] = [e for e in longer.history() if e["event"] == "run.started"]
    assert started["origin"]["run"] == "small/r2"
    assert started["origin"]["changed"] == ["$.train.epochs: 2 → 4"]


def test_killed_it_goes_on_without_the_other(
    runs: dict[int, Run], nursery: Nursery, tmp_path: Path
) -> None:
    """Once it has begun it needs the other run no more, nor that run's store."""
    whole = runs[LONG]
    shutil.copytree(Path(whole.url) / "small" / "r2", tmp_path / "else" / "small" / "r2")
    longer = Run(nursery, whole.spec, whole.url, "killed")
    extend = ("--extend", str(tmp_path / "else" / "small" / "r2"))
    process, hold = longer.start_held(16, *extend)
    hold.until_reached()
    until(lambda: bool(longer.named))
    process.signal(9)
    assert process.wait() == -9
    shutil.rmtree(tmp_path / "else")
    process = longer.start()  # without --extend it would be another run
    assert process.wait() == 2
    assert "add --extend" in process.err
    process = longer.start(*extend)
    assert process.wait() == 0, process.err
    assert (longer.end().model, longer.end().state) == (whole.end().model, whole.end().state)
    assert progress(longer) == progress(whole)


@pytest.mark.parametrize(
    ("edits", "fault"),
    [
        (
            {"optimizer": EVERYTHING["optimizer"] | {"lr": 0.5}},
            r"\$.optimizer.lr: found 0.5; run small/r2, .* has 0.01; set it",
        ),
        ({"train.batch_size": 3}, r"\$.train.batch_size: found 3"),
        ({"train.epochs": 2}, r"\$.train.epochs: found 2; run small/r2 has finished 2 epochs"),
        ({"gates": [{"task": "pair", "skill": 0, "by_epoch": 1}]}, r"\$.gates\[0\].by_epoch"),
        ({"extends": "nobody"}, r"\$.extends: found no run nobody"),
        ({"log.every": 2, "label": "on", "checkpoint.best_of": "pair"}, None),
        ({"train.early_stop": {"task": "kind", "patience": 1}}, None),
    ],
)
def test_what_may_differ(runs: dict[int, Run], edits: dict[str, Any], fault: str | None) -> None:
    """Epochs and what only watches may differ; all else is named, with both values."""
    short = runs[SHORT]
    every = EDITS | {"train.epochs": LONG, "extends": "r2"} | edits
    spec, data = job(short.spec.parent, every)
    if fault is not None:
        with pytest.raises(InputError, match=fault):
            extension(spec, data, short.url)
    else:
        assert extension(spec, data, short.url).manifest.step == SHORT * STEPS


def test_other_data_is_refused(runs: dict[int, Run]) -> None:
    """Steps that no longer make up epochs show that the data has changed."""
    short = runs[SHORT]
    spec, data = job(short.spec.parent, EDITS | {"train.epochs": LONG, "extends": "r2"})
    fewer = replace(
        data.train,
        inputs={name: x[:20] for name, x in data.train.inputs.items()},
    )
    with pytest.raises(InputError, match=r"\$.data.path: found data of 3 steps an epoch"):
        extension(spec, replace(data, train=fewer), short.url)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ('"constant"', "the learning rate stays as it is"),
        ('"cosine"', "step 11 lies in them: 0.5 of the learning rate, after 0.0245 at"),
        ('"one_cycle"', "the schedule one_cycle now spans 4 epochs"),
        ('{"kind": "step", "every": 3}', "falls every 3 epochs of the whole"),
        ('{"kind": "plateau"}', "has fallen 2 times on a plateau"),
    ],
)
def test_the_schedule_is_stated(schedule: str, words: str) -> None:
    """A cosine over the new total goes on from where the step stands in it."""
    tasks = '[{"name": "a", "level": "window", "loss": {"kind": "mse"}}]'
    specs = [
        parse_spec(
            f'{{"name": "x", "data": {{"kind": "arrays", "path": "x.npz"}}, "tasks": {tasks}, '
            f'"train": {{"epochs": {n}, "batch_size": 8, "schedule": {schedule}}}}}'
        )
        for n in (SHORT, LONG)
    ]
    at = TrainState(step=10, epoch=2, falls=2)
    assert words in schedule_words(specs[0], specs[1], at, 5)
