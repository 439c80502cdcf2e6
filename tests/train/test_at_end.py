"""What is measured once, at the end: plots, and the test split, on which nothing depends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from sklearn import metrics as sk

from job.data.dataset import Dataset
from job.events import Epoch, FinalTest, Predictions
from tests.support.tiny_job import PARTIAL, RISING, SMALL, State, Trained, job, write

TASKS = [*SMALL["tasks"], RISING]
EDITS: dict[str, Any] = {
    "tasks": TASKS,
    "data.test": 0.25,
    "train.early_stop": {"task": "level", "patience": 1},
    "checkpoint": {"best_of": "rising", "best_metric": "auroc"},
    "train.epochs": 20,
    "optimizer.lr": 0.1,
}
NAMES = [task["name"] for task in TASKS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data is."""
    return write(tmp_path_factory.mktemp("small")).parent


@pytest.fixture(scope="module")
def ended(folder: Path) -> Trained:
    """A run with a test split, to its end."""
    return trained(folder)


def trained(folder: Path, **more: Any) -> Trained:
    run = Trained(*job(folder, EDITS | more))
    assert run.run()
    return run


def timeless(events: list[Any]) -> list[dict[str, Any]]:
    """Events without what the clock says."""
    timed = {"seconds", "samples_per_second", "step_ms"}
    return [event.model_dump(exclude=timed) for event in events]


def test_comes_once_at_the_end(ended: Trained) -> None:
    """After the last epoch's other events: the validation split's plots, the test, its plots."""
    kinds = [(e.event, getattr(e, "split", None)) for e in ended.events]
    last = [("predictions", "validation")] * 5 + [("test", None)] + [("predictions", "test")] * 5
    assert kinds[-11:] == last
    assert [e.task for e in ended.events if isinstance(e, Predictions)] == NAMES * 2
    assert not {"predictions", "test"} & {kind for kind, _ in kinds[:-11]}
    at = ended.training.at
    assert all((e.step, e.epoch) == (at.step, at.epoch) for e in ended.events[-11:])


def test_without_a_test_split_nothing_is_read(folder: Path) -> None:
    """Such a run has the plots alone."""
    run = Trained(*job(folder, {"tasks": TASKS}))
    run.run()
    assert [e.event for e in run.events[-5:]] == ["predictions"] * 5
    assert not any(isinstance(e, FinalTest) for e in run.events)
    assert run.training.at.test == {}


def test_is_of_the_weights_of_the_end(ended: Trained) -> None:
    """Losses, metrics, and plots are those of the trained network's predictions, by scikit-learn;
    the skill is that over the best constant of the training or of the test split."""
    training = ended.training
    data, test = training.data, training.data.test
    assert test is not None
    event = next(e for e in ended.events if isinstance(e, FinalTest))
    assert event.samples == len(test) == 11
    with torch.no_grad():
        outputs = dict(zip(NAMES, training.stepper.model.eval()(test.inputs), strict=True))
    plots = {e.task: e for e in ended.events if isinstance(e, Predictions) and e.split == "test"}

    kind, y = outputs["kind"].softmax(-1).numpy(), test.targets["kind"].numpy()
    assert event.tasks["kind"].loss == pytest.approx(sk.log_loss(y, kind), rel=1e-5)
    assert event.tasks["kind"].metrics["accuracy"] == sk.accuracy_score(y, kind.argmax(1))
    assert plots["kind"].confusion[0].counts == sk.confusion_matrix(y, kind.argmax(1)).tolist()

    loss = training.losses[NAMES.index("level")]
    level, y = loss.predict(outputs["level"]).numpy(), test.targets["level"].numpy()
    mine, own = event.tasks["level"], y.mean()
    trivial = min(np.square(y - c).mean() for c in (own, data.train.targets["level"].mean().item()))
    assert mine.loss_original == pytest.approx(sk.mean_squared_error(y, level), rel=1e-5)
    assert mine.trivial_loss_original == pytest.approx(trivial, rel=1e-5)
    assert mine.skill == pytest.approx(1 - mine.loss_original / trivial, rel=1e-5)
    assert mine.skill is not None
    assert mine.skill_error is not None
    assert mine.skill_low is not None
    assert mine.skill_low < mine.skill - mine.skill_error < mine.skill
    assert mine.metrics["rmse"] == pytest.approx(mine.loss_original**0.5, rel=1e-5)
    sample = plots["level"].sample
    assert sample is not None
    np.testing.assert_allclose(sample.true, y[:, 0], rtol=1e-6)
    np.testing.assert_allclose(sample.predicted, level[:, 0], rtol=1e-6)

    rising, y = outputs["rising"].sigmoid().numpy(), test.targets["rising"].numpy()
    areas = [sk.roc_auc_score(y[..., k].ravel(), rising[..., k].ravel()) for k in (0, 1)]
    expected = np.mean(areas)
    assert event.tasks["rising"].metrics["auroc"] == pytest.approx(expected)
    assert training.at.test == event.tasks


def test_metrics_of_the_plots_are_those_of_the_last_epoch(ended: Trained) -> None:
    """The validation split's tables hold the accuracy that the last epoch has."""
    last = next(e for e in reversed(ended.events) if isinstance(e, Epoch))
    for name in ("kind", "rising"):
        found = next(e for e in ended.events if isinstance(e, Predictions) and e.task == name)
        right = [np.trace(each.counts) / np.sum(each.counts) for each in found.confusion]
        assert np.mean(right) == pytest.approx(last.tasks[name].val_metrics["accuracy"])


def permuted(data: Dataset) -> Dataset:
    """Other samples and labels in the test split."""
    test, order = data.test, torch.arange(10, -1, -1)
    assert test is not None
    targets = {name: y[order] for name, y in test.targets.items()}
    inputs = {name: 3 * x for name, x in test.inputs.items()}
    return replace(data, test=replace(test, inputs=inputs, targets=targets))


def test_nothing_depends_on_the_test_split(folder: Path, ended: Trained) -> None:
    """With another one every other event is the same, and so is the state: early stop and the
    choice of the best checkpoint too."""
    spec, data = job(folder, EDITS)
    other = Trained(spec, permuted(data))
    other.run()

    def rest(events: list[BaseModel]) -> list[dict[str, Any]]:
        about = [e for e in events if isinstance(e, FinalTest) or getattr(e, "split", "") == "test"]
        assert len(about) == 6
        return timeless([e for e in events if e not in about])

    assert rest(other.events) == rest(ended.events)
    assert timeless(other.events) != timeless(ended.events)
    assert 1 < ended.training.at.epoch < 20  # early stop ended it
    assert [s.step for s in other.saved] == [s.step for s in ended.saved]
    for name, tensor in other.saved[-1].tensors.items():
        assert torch.equal(tensor, ended.saved[-1].tensors[name])


def test_a_resumed_run_ends_alike(folder: Path, ended: Trained) -> None:
    """Resumed in the middle, it measures the same at its end; resumed after its end, nothing."""
    spec, data = job(folder, EDITS)
    begun = Trained(spec, data)
    assert not begun.run(stop_at=5)
    state = State(begun.training)  # before another trainer sets the generator
    rest = Trained(spec, data)
    state.into(rest.training)
    assert rest.run()
    assert timeless(begun.events + rest.events) == timeless(ended.events)
    again = Trained(spec, data)
    ended.saved[-1].into(again.training)
    assert again.run()
    assert again.events == []
    assert again.training.at.test == ended.training.at.test


@pytest.mark.parametrize("tasks", [PARTIAL, [SMALL["tasks"][2] | {"missing": "skip"}]])
def test_labels_are_missing_in_the_test_split(folder: Path, tasks: list[dict[str, Any]]) -> None:
    """Elements without a label are left out, also where the other splits have all of theirs."""
    spec, data = job(folder, {"tasks": tasks, "data.test": 0.25})
    assert data.test is not None
    targets = {name: y.clone() for name, y in data.test.targets.items()}
    targets["down"][::2] = torch.nan
    run = Trained(spec, replace(data, test=replace(data.test, targets=targets)))
    run.run()
    event = next(e for e in run.events if isinstance(e, FinalTest))
    k = spec.task_names.index("down")
    with torch.no_grad():
        outputs = run.training.stepper.model.eval()(data.test.inputs)[k]
    error = (outputs - targets["down"])[targets["down"].isfinite()].abs()
    huber = torch.where(error < 1, error**2 / 2, error - 0.5).mean().item()
    assert event.tasks["down"].loss == pytest.approx(huber, rel=1e-5)
    assert event.tasks["down"].metrics["mae"] == pytest.approx(error.mean().item(), rel=1e-5)
