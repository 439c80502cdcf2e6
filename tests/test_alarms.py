"""Alarms: the task that does not learn is named with its evidence, and a healthy run has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.alarms import LASTING, Watch
from job.baseline import Baseline
from job.data import load
from job.events import Alarm, Epoch, EpochTask
from job.position import POSITION, Position
from job.read_spec import parse_spec, read_spec
from job.train import Training
from tests.command import ROOT
from tests.small import SMALL, Trained, edited, job, write

EPOCHS = 20
FAR_OFF = {
    "name": "level",
    "level": "window",
    "loss": {"kind": "huber", "delta": 1.0},
    "unit": "€",
}
"""Its targets, around 500, are far from outputs that start at 0 and move by 0.001 a step."""


def epochs_of(
    losses: list[float],
    share: float = 0.5,
    constant: float = 1.0,
    balance: str = "fixed",
    **more: Any,
) -> list[Alarm]:
    """The alarms of a task `t` beside another, with these losses after each epoch."""
    edits = {"tasks": SMALL["tasks"][:2], "train.epochs": EPOCHS, "balance": {"kind": balance}}
    spec = parse_spec(json.dumps(edited({**edits, "gates": []})))
    names = spec.task_names
    watch, at = Watch(spec, [Baseline({"train": constant}, None)] * 2), Position()
    found: list[Alarm] = []
    for i, loss in enumerate(losses, 1):
        other = _task(0.5 * constant, 1 - share, weight=1.0)
        tasks = {names[0]: _task(loss, share, **{"weight": 0.5, **more}), names[1]: other}
        epoch = Epoch(epoch=i, step=i, tasks=tasks, seconds=1.0, samples_per_second=1.0)
        found += watch.look(epoch, at)
        at = POSITION.validate_python(json.loads(POSITION.dump_json(at)))  # as a resume does
    assert {alarm.task for alarm in found} <= {names[0]}
    return found


def _task(loss: float, share: float, **more: Any) -> EpochTask:
    others = dict.fromkeys(EpochTask.model_fields, 0.0)
    told = {"train_loss_original": loss, "train_loss": loss, "grad_share": share, "cosines": {}}
    return EpochTask(**others | told | more)


def told(alarms: list[Alarm]) -> list[tuple[str, int]]:
    """Kinds and epochs."""
    return [(alarm.kind, alarm.step) for alarm in alarms]


def test_a_task_that_stands_still() -> None:
    """Far above the trivial loss and hardly moving: told once, in the third epoch."""
    losses = [10 - 0.01 * i for i in range(9)]
    assert told(epochs_of(losses, share=0.3)) == [("task_stalled", 3)]
    (alarm,) = epochs_of(losses, share=0.01)
    assert alarm.kind == "task_starving"
    assert "10.0 times the trivial prediction's (1)" in alarm.message
    assert "1.0%" in alarm.message


def test_a_task_on_its_way() -> None:
    """Far above the trivial loss, but falling: nothing to tell; nor of one that is nearly there."""
    assert epochs_of([10 * 0.9**i for i in range(9)]) == []
    assert epochs_of([1.4] * 9) == []


def test_one_bad_epoch_is_none() -> None:
    """A sign must last; a loss that goes up and down gives no alarm."""
    assert epochs_of([10, 5, 5.01, 2.5, 2.6, 1.2, 1.3, 0.9, 1.2]) == []


def test_an_alarm_comes_again_only_after_a_pause() -> None:
    """It stays raised while its sign stands, and needs the sign's absence to be raised anew."""
    steady, fallen = [10.0] * 4, [1.0] * (LASTING + 1)
    again = told(epochs_of([*steady, *fallen, 10.0, 10.0]))
    assert again == [("task_stalled", 3), ("task_stalled", 9)]
    assert told(epochs_of([*steady, 1.0, *steady])) == [("task_stalled", 3)]


def test_worse_than_the_best_constant() -> None:
    """Told from half of the run on, and not for what may be noise."""
    assert told(epochs_of([1.2] * EPOCHS)) == [("worse_than_constant", EPOCHS // 2 + 1)]
    assert epochs_of([1.04] * EPOCHS) == []


def test_a_saturated_loss() -> None:
    """Told in the second epoch in which most elements are saturated."""
    assert told(epochs_of([0.5] * 5, saturated=0.9)) == [("loss_saturated", 2)]
    assert epochs_of([0.5] * 5, saturated=0.7) == []


def test_steps_that_undo_a_task() -> None:
    """Told with the task that opposes most, and only where the combined step is against it too."""
    (alarm,) = epochs_of([0.5] * 5, cosines={"level": -0.5, "x": -0.9}, cosine=-0.4)
    assert (alarm.kind, alarm.step) == ("conflict", 2)
    assert "-0.90 with x's" in alarm.message
    assert "job diagnose" in alarm.message
    assert epochs_of([0.5] * 5, cosines={"level": -0.9}, cosine=0.3) == []
    assert epochs_of([0.5] * 5, cosines={"level": -0.1}, cosine=-0.4) == []


def test_a_learned_weight_that_hardly_moves() -> None:
    """Told where the weight, at its pace, ends far from 1/(2 loss); only of learned weights."""
    frozen = epochs_of([0.05] * 5, balance="uncertainty", weight=0.505)
    assert told(frozen) == [("sigma_frozen", 2)]
    assert "1/(2 loss) = 10" in frozen[0].message
    assert epochs_of([0.05] * 5, balance="uncertainty", weight=9.0) == []
    assert epochs_of([0.05] * 5, balance="fixed", weight=0.505) == []


@pytest.mark.parametrize(
    ("activation", "share"), [("sigmoid", 1.0), ("tanh", 0.8), ("identity", 0.0)]
)
def test_targets_out_of_range(tmp_path: Path, activation: str, share: float) -> None:
    """A head that cannot reach its targets is told of before the first step."""
    task = {**FAR_OFF, "activation": activation}
    write(tmp_path)
    trained = Trained(*job(tmp_path, {"tasks": [task], "train.epochs": 1, "gates": []}))
    trained.run()
    found = [e for e in trained.events if isinstance(e, Alarm)]
    assert [alarm.kind for alarm in found] == ["targets_out_of_range"] * (share > 0)
    assert all(alarm.step == 0 for alarm in found)


@pytest.mark.parametrize("standardized", [False, True])
def test_planted_in_another_domain(tmp_path: Path, standardized: bool) -> None:
    """Targets that the optimizer cannot reach are told of; its healthy twin tells nothing."""
    transform = {"kind": "standardize"} if standardized else {"kind": "none"}
    tasks = [SMALL["tasks"][0], {**FAR_OFF, "transform": transform}]
    edits: dict[str, Any] = {"tasks": tasks, "train.epochs": 8, "gates": []}
    edits["optimizer"] = {"kind": "adamw", "lr": 1e-3, "head_lr": 3e-2 if standardized else None}
    edits["model.init"] = {"heads": "target_mean" if standardized else "default"}
    write(tmp_path)
    arrays = dict(np.load(tmp_path / "small.npz"))
    np.savez(tmp_path / "small.npz", **arrays | {"level": 500 + arrays["level"]})
    trained = Trained(*job(tmp_path, edits))
    trained.run()
    found = {
        alarm.task: alarm.kind for alarm in reversed(trained.events) if isinstance(alarm, Alarm)
    }
    assert found == ({} if standardized else {"level": "loss_saturated"})
    kinds = {alarm.kind for alarm in trained.events if isinstance(alarm, Alarm)}
    assert ("task_stalled" in kinds) is not standardized


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_the_failure_and_its_cure(seed: int) -> None:
    """By epoch 3 the failing trainer tells of countdown alone; the default spec tells nothing."""
    found = {}
    for name in ("docker/failing.json", "spec.json"):
        spec = read_spec(ROOT / name).model_copy(update={"seed": seed})
        events: list[Any] = []
        training = Training(spec, load(spec, (ROOT / name).parent))
        training.run(events.append, lambda: None, lambda: False)
        early = 3 * training.batches_per_epoch
        found[name] = [e for e in events if isinstance(e, Alarm)]
        found[f"early {name}"] = [e for e in found[name] if e.step <= early]
    assert [(e.kind, e.task) for e in found["early docker/failing.json"]] == [
        ("loss_saturated", "countdown"),
        ("task_starving", "countdown"),
    ]
    assert found["spec.json"] == []
