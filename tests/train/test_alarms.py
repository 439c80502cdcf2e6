"""Alarms: the task that does not learn is named with its evidence, and a healthy run has none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.data.dataset import load
from job.events import Alarm, Epoch, EpochTask, Worth
from job.model.baselines import Baseline
from job.spec.read import parse_spec, read_spec
from job.train.alarms.of_training import LASTING, AlarmMonitor, no_validation_skill
from job.train.state import POSITION, TrainState
from job.train.trainer import Trainer
from tests.support.command import ROOT
from tests.support.tiny_job import SMALL, STEPS, State, Trained, edited, job, write

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
    by_epoch: Sequence[dict[str, float | None]] = (),
    **more: Any,
) -> list[Alarm]:
    """The alarms of a task `t` beside another, with these losses after each epoch; by_epoch: other
    values that change."""
    edits = {"tasks": SMALL["tasks"][:2], "train.epochs": EPOCHS, "balance": {"kind": balance}}
    spec = parse_spec(json.dumps(edited({**edits, "gates": []})))
    names = spec.task_names
    trivial = Baseline({"train": constant}, None, {"train": constant})
    monitor, at = AlarmMonitor(spec, [trivial] * 2), TrainState()
    alarms: list[Alarm] = []
    for i, loss in enumerate(losses, 1):
        other = _task(0.5 * constant, 1 - share, weight=1.0)
        mine = {"weight": 0.5, **more, **(by_epoch[i - 1] if by_epoch else {})}
        tasks = {names[0]: _task(loss, share, **mine), names[1]: other}
        epoch = Epoch(epoch=i, step=i, tasks=tasks, seconds=1.0, samples_per_second=1.0)
        alarms += monitor.after(epoch, at)
        at = POSITION.validate_python(json.loads(POSITION.dump_json(at)))  # as a resume does
    assert {alarm.task for alarm in alarms} <= {names[0]}
    return alarms


def _task(loss: float, share: float, **more: Any) -> EpochTask:
    others: dict[str, Any] = dict.fromkeys(EpochTask.model_fields, 0.0)
    values = {"train_loss_original": loss, "train_loss": loss, "grad_share": share, "cosines": {}}
    values |= {"metrics": {}, "val_metrics": {}, "grad_norm": 1.0}
    return EpochTask(**others | values | more)


def kinds_and_epochs(alarms: list[Alarm]) -> list[tuple[str, int]]:
    """Kinds and epochs."""
    return [(alarm.kind, alarm.step) for alarm in alarms]


def test_a_task_that_stands_still() -> None:
    """Far above the trivial loss and hardly moving: one alarm, in the third epoch."""
    losses = [10 - 0.01 * i for i in range(9)]
    assert kinds_and_epochs(epochs_of(losses, share=0.3)) == [("task_stalled", 3)]
    (alarm,) = epochs_of(losses, share=0.01)
    assert alarm.kind == "task_starving"
    assert "10.0 times the trivial prediction's (1)" in alarm.message
    assert "1.0%" in alarm.message


def test_a_task_on_its_way() -> None:
    """No alarm on a loss that is far above the trivial one but falls, or that is close to it."""
    assert epochs_of([10 * 0.9**i for i in range(9)]) == []
    assert epochs_of([1.4] * 9) == []


def test_one_bad_epoch_is_none() -> None:
    """A sign must last; a loss that goes up and down gives no alarm."""
    assert epochs_of([10, 5, 5.01, 2.5, 2.6, 1.2, 1.3, 0.9, 1.2]) == []


def test_an_alarm_comes_again_only_after_a_pause() -> None:
    """It is raised again only after its sign was absent for as long as it must last."""
    steady, fallen = [10.0] * 4, [1.0] * (LASTING + 1)
    again = kinds_and_epochs(epochs_of([*steady, *fallen, 10.0, 10.0]))
    assert again == [("task_stalled", 3), ("task_stalled", 9)]
    assert kinds_and_epochs(epochs_of([*steady, 1.0, *steady])) == [("task_stalled", 3)]


def test_worse_than_the_best_constant() -> None:
    """There is an alarm from half of the run on, but not for what may be noise."""
    assert kinds_and_epochs(epochs_of([1.2] * EPOCHS)) == [("worse_than_constant", EPOCHS // 2 + 1)]
    assert epochs_of([1.04] * EPOCHS) == []


def test_a_saturated_loss() -> None:
    """There is an alarm in the second epoch in which most elements are saturated."""
    assert kinds_and_epochs(epochs_of([0.5] * 5, saturated=0.9)) == [("loss_saturated", 2)]
    assert epochs_of([0.5] * 5, saturated=0.7) == []


MEMORIZING: dict[str, float | None] = {"skill": 0.5, "skill_low": 0.3, "val_skill": -0.2}
"""What an epoch shows of samples that are learned by heart."""


def skills_of(*epochs: dict[str, float | None]) -> list[Alarm]:
    """The alarms of epochs with these skills and a loss that falls."""
    return epochs_of([0.5 * 0.9**i for i in range(len(epochs))], by_epoch=epochs)


def test_samples_learned_by_heart() -> None:
    """A task with sure skill on the training split and none on the validation split has an alarm in
    the second such epoch, and another only after a pause."""
    on, off = MEMORIZING, MEMORIZING | {"val_skill": 0.1}
    (alarm,) = skills_of(on, on, on)
    assert (alarm.kind, alarm.step) == ("memorizing", 2)
    assert "50% on the training split and -20% on the validation split" in alarm.message
    assert skills_of(on, off, on, off) == []
    again = skills_of(on, on, off, on, off, off, on, on)
    assert kinds_and_epochs(again) == [("memorizing", 2), ("memorizing", 8)]


@pytest.mark.parametrize(
    "change",
    [{"skill_low": 0.1}, {"val_skill": 0.01}, {"val_skill": None}, {"skill_low": None}],
    ids=str,
)
def test_what_is_not_learned_by_heart(change: dict[str, float | None]) -> None:
    """A skill that is not sure on the training split, some skill on the other, or none that can be
    told on either gives no alarm."""
    assert skills_of(*[MEMORIZING | change] * 4) == []
    assert len(skills_of(*[MEMORIZING | {"val_skill": 0.0}] * 4)) == 1


def test_no_skill_at_the_end() -> None:
    """Tasks that do not surely beat the trivial prediction are named with their skill; those that
    do, and those without a skill, are not."""
    worth = {
        "sure": Worth(beats=True, skill=0.5, error=0.1),
        "unsure": Worth(beats=False, skill=0.123, error=0.08),
        "untold": Worth(beats=False, why="it has 3 of the 8 samples that are needed"),
    }
    epoch = Epoch(epoch=3, step=15, tasks={}, seconds=1.0, samples_per_second=1.0)
    (alarm,) = no_validation_skill(epoch, worth, ". For the cause")
    assert (alarm.kind, alarm.task, alarm.step) == ("no_validation_skill", "unsure", 15)
    said = "better than a prediction that ignores the features: its skill is 12.3 ± 8.0%. For the"
    assert said in alarm.message


def test_a_run_tells_its_worth_at_both_ends(tmp_path: Path) -> None:
    """Before the first step, and not again after a resume, what the split cannot tell; after the
    last one, and no earlier epoch, what has no skill."""
    write(tmp_path)
    spec, data = job(tmp_path)
    first, second = Trained(spec, data), Trained(spec, data)
    assert not first.run(stop_at=7)
    State(first.training).into(second.training)
    assert second.run()

    def told(trained: Trained) -> list[tuple[str, int, str | None]]:
        return [(e.kind, e.step, e.task) for e in trained.events if isinstance(e, Alarm)]

    assert told(first) == [("not_measurable", 0, "kind")]
    worth = second.training.at.worth
    unsure = [name for name, task in worth.items() if task.skill is not None and not task.beats]
    assert unsure
    assert told(second) == [("no_validation_skill", 3 * STEPS, name) for name in unsure]


def test_no_gradient_comes_to_z() -> None:
    """A task that has learned nothing and sends no gradient to z has an alarm in the second such
    epoch; one that has learned, sends some, or whose target never varies, has none."""
    (alarm,) = epochs_of([1.0] * 5, grad_norm=1e-8)
    assert (alarm.kind, alarm.step) == ("dead_path", 2)
    assert epochs_of([1.0] * 5, grad_norm=1e-3) == []
    assert epochs_of([0.9] * 5, grad_norm=0.0) == []
    off: dict[str, float | None] = {"grad_norm": 1.0}
    on: dict[str, float | None] = {"grad_norm": 0.0}
    again = epochs_of([1.0] * 7, by_epoch=[on, on, off, on, off, off, on])
    assert kinds_and_epochs(again) == [("dead_path", 2)]


def test_steps_that_undo_a_task() -> None:
    """It names the most opposed task, and needs the combined gradient to be opposed too."""
    (alarm,) = epochs_of([0.5] * 5, cosines={"level": -0.5, "x": -0.9}, cosine=-0.4)
    assert (alarm.kind, alarm.step) == ("conflict", 2)
    assert "points against x's (cosine -0.90; -1: opposite, 0: unrelated)" in alarm.message
    assert "job diagnose" in alarm.message
    assert epochs_of([0.5] * 5, cosines={"level": -0.9}, cosine=0.3) == []
    assert epochs_of([0.5] * 5, cosines={"level": -0.1}, cosine=-0.4) == []


def test_a_learned_weight_that_hardly_moves() -> None:
    """There is an alarm if a learned weight, at its pace, ends far from 1/(2 loss)."""
    frozen = epochs_of([0.05] * 5, balance="uncertainty", weight=0.505)
    assert kinds_and_epochs(frozen) == [("sigma_frozen", 2)]
    assert "1/(2 loss) = 10" in frozen[0].message
    assert epochs_of([0.05] * 5, balance="uncertainty", weight=9.0) == []
    assert epochs_of([0.05] * 5, balance="fixed", weight=0.505) == []


@pytest.mark.parametrize(
    ("activation", "share"), [("sigmoid", 1.0), ("tanh", 0.8), ("identity", 0.0)]
)
def test_targets_out_of_range(tmp_path: Path, activation: str, share: float) -> None:
    """A head that cannot reach its targets gets an alarm before the first step."""
    task = {**FAR_OFF, "activation": activation}
    write(tmp_path)
    trained = Trained(*job(tmp_path, {"tasks": [task], "train.epochs": 1, "gates": []}))
    trained.run()
    alarms = [e for e in trained.events if isinstance(e, Alarm)]
    before = [alarm.kind for alarm in alarms if alarm.step == 0]
    assert before == ["targets_out_of_range"] * (share > 0)
    assert [alarm.kind for alarm in alarms if alarm.step > 0] == ["no_validation_skill"]


@pytest.mark.parametrize("standardized", [False, True])
def test_planted_in_another_domain(tmp_path: Path, standardized: bool) -> None:
    """Targets that the optimizer cannot reach give alarms, and take the other task with them;
    their healthy twin, which beats the trivial prediction, gives none."""
    transform = {"kind": "standardize"} if standardized else {"kind": "none"}
    tasks = [SMALL["tasks"][0], {**FAR_OFF, "transform": transform}]
    edits: dict[str, Any] = {"tasks": tasks, "train.epochs": 40, "gates": []}
    edits["data.validation"] = 0.4
    edits["optimizer"] = {"kind": "adamw", "lr": 1e-3, "head_lr": 3e-2 if standardized else None}
    edits["model.init"] = {"heads": "target_mean" if standardized else "default"}
    write(tmp_path)
    arrays = dict(np.load(tmp_path / "small.npz"))
    np.savez(tmp_path / "small.npz", **arrays | {"level": 500 + arrays["level"]})
    trained = Trained(*job(tmp_path, edits))
    trained.run()
    alarms = {
        alarm.task: alarm.kind for alarm in reversed(trained.events) if isinstance(alarm, Alarm)
    }
    broken = {"level": "loss_saturated", "kind": "no_validation_skill"}
    assert alarms == ({} if standardized else broken)
    kinds = {alarm.kind for alarm in trained.events if isinstance(alarm, Alarm)}
    assert ("task_stalled" in kinds) is not standardized


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_failure_and_its_cure(seed: int) -> None:
    """By epoch 3 the failing trainer has alarms on countdown alone; its mended twin has one that
    210 windows teach nothing that holds for others; a job with a window at every bar has none."""
    alarms = {}
    for name in ("docker/failing.json", "docker/mended.json", "docker/smoke.json"):
        spec = read_spec(ROOT / name).model_copy(update={"seed": seed})
        events: list[Any] = []
        training = Trainer(spec, load(spec, (ROOT / name).parent))
        training.run(events.append, lambda: None, lambda: False)
        early = 3 * training.batches_per_epoch
        alarms[name] = [e for e in events if isinstance(e, Alarm)]
        alarms[f"early {name}"] = [e for e in alarms[name] if e.step <= early]
    assert [(e.kind, e.task) for e in alarms["early docker/failing.json"]] == [
        ("loss_saturated", "countdown"),
        ("task_starving", "countdown"),
    ]
    assert {e.kind for e in alarms["docker/mended.json"]} <= {"no_validation_skill", "memorizing"}
    assert alarms["docker/smoke.json"] == []


def test_a_constant_target_is_named(tmp_path: Path) -> None:
    """A task whose target never changes is worse than that constant, and the message says why."""
    write(tmp_path)
    edits = {"tasks": [{**SMALL["tasks"][1], "transform": {"kind": "none"}}], "train.epochs": 10}
    arrays = dict(np.load(tmp_path / "small.npz"))
    np.savez(tmp_path / "small.npz", **arrays | {"level": np.full_like(arrays["level"], 7.5)})
    trained = Trained(*job(tmp_path, {**edits, "gates": [], "model.init.heads": "default"}))
    trained.run()
    untold, alarm = (e for e in trained.events if isinstance(e, Alarm))
    assert (untold.kind, untold.task, untold.step) == ("not_measurable", "level", 0)
    assert untold.message == (
        "level: the validation split cannot tell whether it is learned: "
        "the target is the same in all its samples"
    )
    assert alarm.kind == "worse_than_constant"
    assert "its target is constant, the same in all training samples" in alarm.message
