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

from job.model import Dropout
from job.precision import LossScale
from job.ranks import ALONE, Ranks, join
from tests.nets import MIXED, Net, batch, kill
from tests.ranked import Ended, Pair, pair, train
from tests.small import HUGE, SMALL, TRAIN, job, write

BALANCERS: dict[str, dict[str, Any]] = {
    "fixed": {"kind": "fixed", "weights": {"down": 2.0}},
    "gradient_norm": {"kind": "gradient_norm"},
    "uncertainty": {"kind": "uncertainty", "lr": 0.1},
    "running_mean": {"kind": "running_mean", "warmup": 3},
    "UPGrad": {"kind": "torchjd", "method": "UPGrad"},
}
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


@pytest.mark.parametrize("balance", BALANCERS)
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


@pytest.mark.parametrize("balance", BALANCERS)
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
        for name in ("model.trunk.lstm.weight_ih_l0", "halted"):
            mine, theirs = (e.end.tensors[f"{name}"] for e in (ended, alone))
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


# --- one step -------------------------------------------------------------------------------------


def step_under_scale(ranks: Ranks, scale: float, dead: bool) -> list[Tensor]:
    """What an audited step of a rank's share under a loss scale measured, and the parameters."""
    net = Net(MIXED, {"kind": "gradient_norm"}, loss_scale=LossScale(scale), ranks=ranks)
    if dead:
        kill(net.model, 1)
    at = batch(MIXED)
    share = ranks.share(len(at.features)) if ranks.world > 1 else None
    rows = ranks.share(len(at.features)).rows
    torch.manual_seed(5)
    measured = net.stepper(
        at.features[rows], [y[rows] for y in at.targets], net.optimizer, True, share
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
