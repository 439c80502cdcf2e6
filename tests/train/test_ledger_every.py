"""A run whose gradients are measured at every n-th step alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from job.train.alarms.of_training import ledger_alarms
from tests.support.foreign_nets import Foreign
from tests.support.tiny_job import SMALL, State, Trained, edited, job, write

UPGRAD = {"balance": {"kind": "torchjd", "method": "UPGrad"}}
HELD: dict[str, Any] = {"log.ledger_every": 3, **UPGRAD}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data is."""
    return write(tmp_path_factory.mktemp("small")).parent


def test_events_say_when_gradients_were_measured(folder: Path) -> None:
    """A step that measures has no `measured_at`; the others name that step and repeat its values,
    while their losses are their own."""
    trained = Trained(*job(folder, HELD))
    assert trained.run()
    measured: dict[int, Any] = {}
    for event in trained.steps:
        at = event.measured_at
        assert at == (None if event.step % 3 == 1 else event.step - (event.step - 1) % 3)
        if at is None:
            measured[event.step] = event
            continue
        for name, task in event.tasks.items():
            before = measured[at].tasks[name]
            assert (task.grad_norm, task.weight) == (before.grad_norm, before.weight)
            assert task.loss != before.loss
        assert event.cosine_min == measured[at].cosine_min
    assert {e.at for e in trained.steps} | {e.at for e in trained.epochs} == {None}


def assert_same_tensors(one: State, other: State) -> None:
    """Bit for bit."""
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in other.tensors.items():
        assert torch.equal(one.tensors[name], tensor), name


def test_a_run_is_resumed_between_two_measurements(folder: Path) -> None:
    """Bit for bit, held weights included."""
    whole = Trained(*job(folder, HELD))
    assert whole.run()
    end = State(whole.training)
    begun = Trained(*job(folder, HELD))
    assert not begun.run(stop_at=8)
    middle = State(begun.training)
    rest = Trained(*job(folder, HELD))
    middle.into(rest.training)
    assert rest.run()
    assert_same_tensors(State(rest.training), end)
    told = {e.step: e.model_copy(update={"step_ms": 0.0}) for e in whole.steps}
    for event in rest.steps:
        assert event.model_copy(update={"step_ms": 0.0}) == told[event.step]


def test_a_weighted_sum_is_trained_the_same(folder: Path) -> None:
    """With weights that gradients do not decide, seldom measurements change no update, to
    rounding."""
    fixed = {
        "balance": {"kind": "fixed", "weights": {"down": 2.0}},
        "model.dropout": {"input": 0.0},
    }
    ends = []
    for every in (1, 4):
        trained = Trained(*job(folder, {**fixed, "log.ledger_every": every}))
        assert trained.run()
        ends.append(trained.training.model.eval())
    for a, b in zip(ends[0].parameters(), ends[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_the_default_changes_no_older_spec(folder: Path) -> None:
    """Its content is what it was before the field came."""
    spec, _ = job(folder)
    assert "ledger_every" not in spec.model_dump(mode="json")["log"]
    other, _ = job(folder, {"log.ledger_every": 2})
    assert other.content_hash() != spec.content_hash()
    assert "ledger_every" not in edited({})["log"]


def test_alarms_of_a_network_whose_tasks_meet_at_no_z() -> None:
    """One alarm before the first step says where and how often gradients are measured, and why."""
    net = Foreign("whole")
    (alarm,) = ledger_alarms(net.known, net.stepper.every)
    assert alarm.kind == "measured_at_parameters"
    assert alarm.message.startswith("the network has no shared representation")
    assert "one step of 20" in alarm.message
    (alarm,) = ledger_alarms(Foreign("frozen").known, 1)
    assert alarm.kind == "no_conflict"
    assert not list(ledger_alarms(Foreign("tuple").known, 1))


@pytest.mark.parametrize(
    ("experts", "twice"),
    [(None, True), ({"kind": "mmoe", "count": 2, "width": 4}, False), ({"kind": "ple"}, False)],
)
def test_jobs_with_deep_heads(folder: Path, experts: dict[str, Any] | None, twice: bool) -> None:
    """They train with a ledger at z at every step, and resume bit for bit in mid-epoch."""
    head = {"hidden": [4], "share": "two"} if twice else {"hidden": [4]}
    tasks = [task | {"head": head} if i < 2 else task for i, task in enumerate(SMALL["tasks"])]
    edits = {"tasks": tasks, "model.experts": experts, "train.epochs": 1, **UPGRAD}
    whole = Trained(*job(folder, edits))
    assert whole.run()
    assert whole.training.known.at == "z"
    assert bool(whole.training.known.of_several) == twice
    for event in whole.steps:
        assert event.measured_at is None
        assert sum(task.grad_share for task in event.tasks.values()) == pytest.approx(1)
    end = State(whole.training)
    begun = Trained(*job(folder, edits))
    assert not begun.run(stop_at=2)
    middle = State(begun.training)
    rest = Trained(*job(folder, edits))
    middle.into(rest.training)
    assert rest.run()
    assert_same_tensors(State(rest.training), end)
