"""Several processes that train one network give what one process gives, to rounding."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor

from job.distributed.ranks import ALONE, Ranks, join
from job.model.dropout import Dropout
from job.model.skill import Skill
from job.train.evaluate import evaluate
from job.train.precision import LossScale
from job.train.trainer import Trainer
from tests.support.foreign_nets import Foreign, given
from tests.support.nets import MIXED, Net, batch, kill
from tests.support.tiny_job import HUGE, PARTIAL, RISING, SMALL, TRAIN, job, write
from tests.support.two_ranks import Ended, Pair, pair, train

BALANCERS: dict[str, dict[str, Any]] = {
    "fixed": {"kind": "fixed", "weights": {"down": 2.0}},
    "gradient_norm": {"kind": "gradient_norm"},
    "uncertainty": {"kind": "uncertainty", "lr": 0.1},
    "running_mean": {"kind": "running_mean", "warmup": 3},
    "UPGrad": {"kind": "torchjd", "method": "UPGrad"},
}
FIRST_AND_SLOW = [
    "gradient_norm",
    *(pytest.param(name, marks=pytest.mark.slow) for name in BALANCERS if name != "gradient_norm"),
]
RICH: dict[str, Any] = {
    "train.batch_size": 7,  # 36 samples: shares of 3 and 4 rows, and one batch of a single row
    "train.clip": 0.5,
    "train.schedule": "one_cycle",
    "train.early_stop": {"task": "*", "patience": 2},
    "optimizer.lr": 0.02,
    "gates": [
        {"task": "down", "drop": 0.0, "by_epoch": 2},
        {"ratio": ["down", "pair"], "between": [0.1, 9]},
    ],
}
"""Dropout, audits, a clip, gates: all that could tell how many ranks there are."""
COUNTED = ("kind", "down")
"""Tasks of PARTIAL without a label in some batches."""
STOP = 8
"""Steps before an interruption, in mid-epoch: an epoch has 6."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data is."""
    return write(tmp_path_factory.mktemp("small")).parent


@pytest.fixture(scope="module")
def two() -> Iterator[Pair]:
    """Two ranks."""
    with pair() as made:
        yield made


def numbers(value: Any, where: str = "") -> dict[str, float]:
    """The numbers in JSON-like values, by place, but for the clock's."""
    timed = ("seconds", "samples_per_second", "step_ms", "epoch_seconds")
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, dict):
        items = [(str(k), v) for k, v in value.items() if k not in timed]
    elif isinstance(value, list | tuple):
        items = [(str(k), v) for k, v in enumerate(value)]
    else:
        return {where: float(value)} if isinstance(value, int | float) else {}
    return {place: n for k, v in items for place, n in numbers(v, f"{where}.{k}").items()}


def assert_close(one: list[Any], other: list[Any]) -> None:
    """The same events with the same numbers, to rounding; and the same verdicts."""
    assert [e.event for e in one] == [e.event for e in other]
    mine, theirs = numbers(one), numbers(other)
    assert mine.keys() == theirs.keys()
    for place, value in mine.items():
        assert value == pytest.approx(theirs[place], rel=2e-4, abs=2e-6, nan_ok=True), place


def assert_same_end(one: Ended, other: Ended) -> None:
    """The same state, to rounding; the generator's exactly."""
    assert one.finished
    assert other.finished
    assert one.end.tensors.keys() == other.end.tensors.keys()
    for name, tensor in one.end.tensors.items():
        if name.startswith("generator"):
            assert torch.equal(tensor, other.end.tensors[name])
        else:
            torch.testing.assert_close(tensor, other.end.tensors[name], rtol=1e-3, atol=1e-4)
    mine, theirs = (numbers(json.loads(e.end.values)) for e in (one, other))
    assert mine == pytest.approx(theirs, rel=2e-4, abs=2e-6, nan_ok=True)


@pytest.mark.parametrize("balance", FIRST_AND_SLOW)
def test_two_ranks_train_as_one(two: Pair, folder: Path, balance: str) -> None:
    """Every step, epoch and verdict, and the state at the end, is that of one process."""
    edits = RICH | {"balance": BALANCERS[balance]}
    alone = train(ALONE, folder, edits)
    first, second = two.both(train, folder, edits)
    assert sum(e.event == "step" for e in alone.events) == 18
    assert_close(first.events, alone.events)
    assert_same_end(first, alone)
    assert numbers(first.events) == numbers(second.events)
    for name, tensor in first.end.tensors.items():
        assert torch.equal(tensor, second.end.tensors[name]), name


OTHERS: list[dict[str, Any]] = [
    {"name": "range", "target": "some_down", "level": "step", "loss": {"kind": "quantile"}},
    {"name": "order", "target": "some_pair", "level": "step", "outputs": 2}
    | {"loss": {"kind": "ranking"}},
    {"name": "grade", "target": "some_kind", "level": "window", "outputs": 2}
    | {"loss": {"kind": "ordinal"}},
    {"name": "normal", "target": "some_level", "level": "window"}
    | {"loss": {"kind": "gaussian_nll"}, "transform": {"kind": "standardize"}},
    {"name": "count", "target": "rising", "level": "step", "outputs": 2}
    | {"loss": {"kind": "poisson_nll"}},
]


@pytest.mark.slow
def test_two_ranks_train_other_losses_as_one(two: Pair, folder: Path) -> None:
    """With labels missing, of lists too, and metrics of intervals, lists and counts."""
    tasks = [each | {"missing": "skip"} for each in OTHERS]
    edits = {"tasks": tasks, "train.batch_size": 7, "optimizer.lr": 0.02}
    alone = train(ALONE, folder, edits)
    first, second = two.both(train, folder, edits)
    assert_close(first.events, alone.events)
    assert_same_end(first, alone)
    assert numbers(first.events) == numbers(second.events)


@pytest.mark.parametrize("tasks", [[*SMALL["tasks"], RISING], PARTIAL])
def test_the_end_is_measured_alike(two: Pair, folder: Path, tasks: list[dict[str, Any]]) -> None:
    """Plots and the test split are those of one process, and the very same on both ranks."""
    edits = RICH | {"tasks": tasks, "data.test": 0.2, "train.batch_size": 5}
    alone = train(ALONE, folder, edits)
    first, second = two.both(train, folder, edits)
    last = ["predictions"] * len(tasks)
    assert [e.event for e in alone.events[-2 * len(tasks) - 1 :]] == [*last, "test", *last]
    assert_close(first.events, alone.events)
    assert numbers(first.events) == numbers(second.events)
    assert_same_end(first, alone)


@pytest.mark.parametrize("balance", FIRST_AND_SLOW)
def test_the_number_of_ranks_may_change(two: Pair, folder: Path, balance: str) -> None:
    """Begun by one process and gone on with by two, or the reverse, a run ends as it would have."""
    edits = RICH | {"balance": BALANCERS[balance]}
    whole = train(ALONE, folder, edits)
    begun = train(ALONE, folder, edits, None, (STOP,))
    assert not begun.finished
    rest = two.both(train, folder, edits, begun.end)[0]
    assert_close(begun.events + rest.events, whole.events)
    assert_same_end(rest, whole)
    begun = two.both(train, folder, edits, None, (STOP, STOP))[0]
    rest = train(ALONE, folder, edits, begun.end)
    assert_close(begun.events + rest.events, whole.events)
    assert_same_end(rest, whole)


@pytest.mark.parametrize(
    "balance",
    [*FIRST_AND_SLOW, *(pytest.param(name, marks=pytest.mark.slow) for name in ("FAMO", "DWA"))],
)
def test_two_ranks_train_as_one_with_missing_labels(two: Pair, folder: Path, balance: str) -> None:
    """Means are over the labels of both: batches without any of a task, or with all of them on one
    rank, and a batch with one rank without rows, are those of one process."""
    section = BALANCERS.get(balance, {"kind": "torchjd", "method": balance})
    edits = RICH | {"balance": section, "tasks": PARTIAL}
    alone = train(ALONE, folder, edits)
    first, second = two.both(train, folder, edits)
    counts = [
        [e.tasks[name].labelled for e in alone.events if e.event == "step"] for name in COUNTED
    ]
    assert all(0 in each for each in counts)
    assert_close(first.events, alone.events)
    assert_same_end(first, alone)
    assert numbers(first.events) == numbers(second.events)


def evaluated(ranks: Ranks, folder: Path, most: int) -> tuple[Tensor, list[Skill | None]]:
    """A rank's losses by sample of an untrained network, and the skills that it tells."""
    spec, data = job(folder, {"train.evaluate": most})
    training = Trainer(spec, data, ranks)
    model, cpu = training.stepper.model, torch.device("cpu")
    chosen = training.yardsticks.chosen
    losses = evaluate(model, training.losses, data.train, cpu, chosen, ranks=ranks)
    return losses.by_sample, training.yardsticks.skills("train", losses)


def measured(ranks: Ranks, folder: Path, most: int) -> list[dict[str, float | None]]:
    """A rank's metrics of an untrained network."""
    spec, data = job(folder, {"train.evaluate": most, "tasks": [*SMALL["tasks"], RISING]})
    training = Trainer(spec, data, ranks)
    model, cpu = training.stepper.model, torch.device("cpu")
    chosen = training.yardsticks.chosen
    losses = evaluate(model, training.losses, data.train, cpu, chosen, ranks=ranks, metrics=True)
    return list(losses.metrics)


@pytest.mark.parametrize("most", [TRAIN, 9, 1])
def test_metrics_are_those_of_one(two: Pair, folder: Path, most: int) -> None:
    """Those that need all predictions at once too, and where a rank has no rows; both ranks have
    the very same."""
    alone = measured(ALONE, folder, most)
    first, second = two.both(measured, folder, most)
    assert first == second
    for mine, theirs in zip(first, alone, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            assert mine[name] == (None if value is None else pytest.approx(value, rel=1e-5))
    if most == TRAIN:
        assert all(None not in values.values() for values in alone)


@pytest.mark.parametrize("most", [TRAIN, 9])
def test_skills_are_those_of_one(two: Pair, folder: Path, most: int) -> None:
    """Each rank evaluates a part, and knows every sample's loss, in the samples' order."""
    by_sample, skills = evaluated(ALONE, folder, most)
    assert by_sample.shape == (len(SMALL["tasks"]), most)
    assert sum(skill is not None for skill in skills) > 2
    for losses, told in two.both(evaluated, folder, most):
        torch.testing.assert_close(losses, by_sample)
        for mine, other in zip(told, skills, strict=True):
            assert mine == (None if other is None else pytest.approx(other, rel=1e-5))


@pytest.mark.parametrize("asking", [0, 1])
def test_all_stop_after_the_same_step(two: Pair, folder: Path, asking: int) -> None:
    """Whichever rank is asked to stop, both do, after that very step."""
    stop_at = tuple(5 if rank == asking else None for rank in range(2))
    ends = two.both(train, folder, {}, None, stop_at)
    assert [(e.finished, e.step) for e in ends] == [(False, 5), (False, 5)]


def test_a_number_that_is_not_finite_halts_all(two: Pair, folder: Path) -> None:
    """One sample whose loss overflows, on one rank, halts both at the step at which it halts one
    process, with the same words and the state before that step."""
    edits = {"tasks": [*SMALL["tasks"], HUGE], "model.init.heads": "default"}
    alone = train(ALONE, folder, edits)
    assert alone.error is not None
    assert "the loss of task huge is inf" in alone.error
    for ended in two.both(train, folder, edits):
        assert (ended.error, ended.step) == (alone.error, alone.step)
        for name in ("model.trunk.encoder.lstm.weight_ih_l0", "halted"):
            mine, theirs = (e.end.tensors[f"{name}"] for e in (ended, alone))
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


# --- one step -------------------------------------------------------------------------------------


def step_under_scale(ranks: Ranks, scale: float, dead: bool) -> list[Tensor]:
    """What an audited step of a rank's share under a loss scale measured, and the parameters."""
    net = Net(MIXED, {"kind": "gradient_norm"}, loss_scale=LossScale(scale), ranks=ranks)
    if dead:
        kill(net.model, 1)
    at = batch(MIXED)
    share = ranks.share(len(at.targets[0])) if ranks.world > 1 else None
    rows = ranks.share(len(at.targets[0])).rows
    torch.manual_seed(5)
    measured = net.stepper(
        {name: x[rows] for name, x in at.inputs.items()},
        [y[rows] for y in at.targets],
        net.optimizer,
        True,
        share,
    )
    return [*measured, *(p.detach() for p in net.model.parameters())]


@pytest.mark.parametrize("scale", [2.0**10, 2.0**127], ids=["applied", "skipped"])
def test_a_loss_scale_and_a_skipped_step(two: Pair, scale: float) -> None:
    """Scaled and unscaled again, losses, Gram matrix, norms, audit and update are those of one
    process; an overflow anywhere skips the step everywhere."""
    alone = step_under_scale(ALONE, scale, False)
    skipped = alone[5]
    assert skipped == (scale > 2.0**100)
    for mine, theirs in zip(two.both(step_under_scale, scale, False)[1], alone, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def foreign_steps(ranks: Ranks, name: str, section: dict[str, Any]) -> list[Tensor | None]:
    """What three steps measured, every second with gradients, and the parameters after them."""
    net = Foreign(name, section, partial=True, ranks=ranks, every=2, clip=0.5)
    found: list[Tensor | None] = []
    for step in (1, 2, 3):
        at = given(net.tasks, size=7, seed=step, partial=True)
        at.targets[1][3:] = torch.nan  # so the second rank, of 4 rows, has no label of this task
        share = ranks.share(7) if ranks.world > 1 else None
        rows = ranks.share(7).rows
        inputs = {n: x[rows] for n, x in at.inputs.items()}
        targets = [y[rows] for y in at.targets]
        weights = [None if w is None else w[rows] for w in at.of_samples]
        found += net.stepper(inputs, targets, net.optimizer, True, share, weights, step)
    return [*found, *(p.detach() for p in net.model.parameters())]


@pytest.mark.parametrize(
    ("name", "balance"),
    [
        ("tuple", "gradient_norm"),
        pytest.param("group", "UPGrad", marks=pytest.mark.slow),
        pytest.param("whole", "UPGrad", marks=pytest.mark.slow),
        pytest.param("PLE", "gradient_norm", marks=pytest.mark.slow),
        pytest.param("leak", "gradient_norm", marks=pytest.mark.slow),
    ],
)
def test_two_ranks_measure_any_network_as_one(two: Pair, name: str, balance: str) -> None:
    """Gradients at z are summed as Gram matrices, those at shared parameters before; a rank
    without any label of a task changes nothing."""
    alone = foreign_steps(ALONE, name, BALANCERS[balance])
    first, second = two.both(foreign_steps, name, BALANCERS[balance])
    for mine, theirs, same in zip(alone, first, second, strict=True):
        if mine is None:
            assert theirs is None
        else:
            torch.testing.assert_close(theirs, mine, rtol=2e-4, atol=2e-6)
            assert torch.equal(theirs, same)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shares_make_up_the_batch(rows: int, world: int) -> None:
    """Every row is one rank's, in order; weights add up to 1; who has none still has one to show,
    of weight 0."""
    shares = [Ranks(rank, world).share(rows) for rank in range(world)]
    counted = [row for share in shares for row in range(share.first, share.last)]
    assert counted == list(range(rows))
    assert math.fsum(share.weight for share in shares) == pytest.approx(1)
    for share in shares:
        shown = range(rows)[share.rows]
        assert len(shown) == max(1, share.last - share.first)
        assert share.weight > 0 or share.first == share.last


def test_dropout_of_a_share_is_that_of_the_batch() -> None:
    """Masks of shares, put together, are the one that a process alone draws; the generator stands
    at the same place afterwards; in evaluation nothing is dropped."""
    whole = torch.rand(7, 4, 3)
    torch.manual_seed(1)
    expected, after = F.dropout(whole, 0.4), torch.get_rng_state()
    parts = []
    for rank in range(3):
        dropout = Dropout(0.4)
        dropout.share = Ranks(rank, 3).share(7)
        torch.manual_seed(1)
        parts.append(dropout(whole[dropout.share.rows]))
        assert torch.equal(torch.get_rng_state(), after)
        dropout.eval()
        assert torch.equal(dropout(whole[:2]), whole[:2])
    assert torch.equal(torch.cat(parts), expected)
    assert not torch.equal(expected, whole)


def test_a_preset_world_is_no_torchrun() -> None:
    """What RunPod's clusters preset does not make a process one of several."""
    preset = {"WORLD_SIZE": "16", "NODE_RANK": "1", "NUM_NODES": "2", "MASTER_ADDR": "10.65.0.2"}
    assert join(preset, torch.device("cpu")) == ALONE


def test_a_process_alone_sends_nothing(folder: Path) -> None:
    """Without torchrun no process group is made, and no collective asked for."""
    assert "TORCHELASTIC_RUN_ID" not in os.environ
    spec, _ = job(folder)
    assert spec.train.batch_size < TRAIN
    train(ALONE, folder, {"train.epochs": 1})
    assert not torch.distributed.is_initialized()
