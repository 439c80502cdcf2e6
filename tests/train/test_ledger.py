"""The ledger: step events and epoch means, compared with direct computation."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from job.events import Step
from job.train.ledger import Ledger
from job.train.step import Measured
from tests.support.nets import MIXED, Net, batch, gradients_at

TASKS = ["type", "countdown", "x"]


class Known(NamedTuple):
    """A measurement, and the gradients [K, n] at z that it came from."""

    measured: Measured
    gradients: Tensor


def known(seed: int = 0, tasks: int = 3, audit: bool = False, skipped: bool = False) -> Known:
    draw = torch.Generator().manual_seed(seed)
    jacobian = torch.randn(tasks, 7, generator=draw)
    losses, originals, weights, head_norms = torch.rand(4, tasks, generator=draw).unbind()
    return Known(
        Measured(
            losses,
            originals,
            weights - 0.2,  # some negative, as IMTL-G's may be
            jacobian @ jacobian.T,
            head_norms,
            torch.tensor(float(skipped)),
            torch.tensor(0.0),
            torch.rand(tasks, generator=draw) if audit else None,
        ),
        jacobian.double(),
    )


def events(*measured: Measured, ledger: Ledger | None = None) -> list[Step]:
    ledger = ledger or Ledger(TASKS[: len(measured[0].losses)])
    for i, each in enumerate(measured):
        ledger.collect(i + 1, 1, 0.01, each)
    return list(ledger.fetch())


def seven(x: Tensor) -> float:
    return float(f"{x.item():.7g}")


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


# --- one step ---------------------------------------------------------------------------------


def test_a_step_event_holds_what_was_measured() -> None:
    """Losses, weights and head norms reach the event to 7 digits; norms, shares and cosines at z
    equal those of the gradients themselves."""
    measured, g = known()
    (event,) = events(measured)
    assert (event.step, event.epoch, event.lr, event.skipped) == (1, 1, 0.01, False)
    w = measured.weights.double()
    pulls = w.abs() * g.norm(dim=1)
    for k, (name, task) in enumerate(event.tasks.items()):
        assert name == TASKS[k]
        assert task.loss == seven(measured.losses[k])
        assert task.loss_original == seven(measured.originals[k])
        assert task.weight == seven(measured.weights[k])
        assert task.head_grad_norm == seven(measured.head_norms[k])
        assert task.grad_norm == pytest.approx(g[k].norm().item(), rel=1e-5)
        assert task.grad_share == pytest.approx((pulls[k] / pulls.sum()).item(), rel=1e-5)
        assert task.cosine == pytest.approx(cosine(g[k], w @ g), abs=1e-5)
    between = [cosine(g[a], g[b]) for a in range(3) for b in range(a)]
    assert event.cosine_min == pytest.approx(min(between), abs=1e-5)


@given(seed=st.integers(0, 1000), tasks=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_shares_sum_to_one(seed: int, tasks: int) -> None:
    """The tasks' shares of the gradient are between 0 and 1 and sum to 1."""
    (event,) = events(known(seed, tasks).measured)
    shares = [task.grad_share for task in event.tasks.values()]
    assert all(0 <= share <= 1 for share in shares)
    assert sum(shares) == pytest.approx(1)


def test_cosines_of_a_real_step() -> None:
    """In a real step a task's cosine with the combined gradient is that of K backwards."""
    net, at = Net(MIXED, {"kind": "fixed", "weights": {"type": 3.0}}, dropout=0.0), batch(MIXED)
    z = net.model.represent(at.inputs).detach()
    gradients = gradients_at(net, z, at)
    net.optimizer.zero_grad()
    measured = net.step(at)
    combined = gradients.combined(measured.weights)[0].flatten()
    ledger = Ledger([t.name for t in MIXED])
    ledger.collect(1, 1, 0.01, measured)
    (event,) = ledger.fetch()
    for k, task in enumerate(event.tasks.values()):
        expected = cosine(gradients.of_task(k)[0].flatten(), combined)
        assert task.cosine == pytest.approx(expected, abs=1e-5)


def test_a_dead_task_has_no_share_and_no_direction() -> None:
    """A task without gradient has norm, share and cosine 0, and the others' shares sum to 1."""
    measured = known().measured
    measured.gram[1] = measured.gram[:, 1] = 0
    (event,) = events(measured)
    dead = event.tasks["countdown"]
    assert (dead.grad_norm, dead.grad_share, dead.cosine) == (0, 0, 0)
    assert event.tasks["type"].grad_share + event.tasks["x"].grad_share == pytest.approx(1)


def test_no_gradient_at_all_has_finite_numbers() -> None:
    """With every gradient 0 each number of the event is finite."""
    measured = known().measured
    measured.gram.zero_()
    (event,) = events(measured)
    assert event.cosine_min == 0
    assert all(math.isfinite(x) for t in event.tasks.values() for x in dict(t).values() if x)


def test_a_single_task_has_no_pair() -> None:
    """One task has the whole gradient, points where the weight's sign says, and has no pair."""
    (event,) = events(known(seed=1, tasks=1).measured)
    assert event.cosine_min is None
    assert event.tasks["type"].grad_share == 1
    assert abs(event.tasks["type"].cosine) == pytest.approx(1)


def test_audited_steps_alone_have_a_shared_norm() -> None:
    """`shared_grad_norm` stands in audited steps alone, in a block with others."""
    audited, plain = known(audit=True).measured, known(seed=1).measured
    first, second = events(audited, plain)
    assert audited.audit is not None
    norms = [task.shared_grad_norm for task in first.tasks.values()]
    assert norms == [seven(x) for x in audited.audit]
    assert [task.shared_grad_norm for task in second.tasks.values()] == [None] * 3


@pytest.mark.parametrize(
    "value", [0.0, -3.4e38, 1e-45, 0.1, 2.0**24, math.inf, -math.inf, math.nan]
)
def test_numbers_of_any_size_keep_seven_digits(value: float) -> None:
    """A loss has 7 significant digits in the event from float32's smallest to its largest; what is
    not finite stays what it is."""
    measured = known().measured
    measured.losses[0] = value
    (event,) = events(measured)
    logged = event.tasks["type"].loss
    assert logged == pytest.approx(measured.losses[0].item(), rel=1e-6, abs=0, nan_ok=True)


# --- blocks and epochs ------------------------------------------------------------------------


@given(cuts=st.sets(st.integers(1, 11)))
@settings(max_examples=25, deadline=None)
def test_blocks_of_any_size_give_the_same(cuts: set[int]) -> None:
    """However the steps are divided into fetches, events and means are the same bit for bit; only
    the clock's reading differs."""
    taken = [known(i, audit=i % 5 == 0, skipped=i == 7).measured for i in range(12)]
    whole, parts = Ledger(TASKS), Ledger(TASKS)
    expected = events(*taken, ledger=whole)
    events_of_parts: list[Step] = []
    for i, each in enumerate(taken):
        parts.collect(i + 1, 1, 0.01, each)
        if i in cuts:
            events_of_parts += parts.fetch()
    events_of_parts += parts.fetch()
    untimed = [event.model_copy(update={"step_ms": 0.0}) for event in events_of_parts]
    assert untimed == [event.model_copy(update={"step_ms": 0.0}) for event in expected]
    assert parts.means() == whole.means()


def test_an_epochs_means() -> None:
    """Means over the applied steps of the epoch: weight, norm, share, weight × norm at z and at the
    head; a skipped step is in none, and a new epoch forgets."""
    ledger = Ledger(TASKS)
    taken = [known(i, skipped=i == 2) for i in range(5)]
    logged = [
        dict(event.tasks)
        for event in events(*(each.measured for each in taken), ledger=ledger)
        if not event.skipped
    ]
    for name, mean in ledger.means().items():
        steps = [step[name] for step in logged]
        assert mean == pytest.approx(
            {
                "weight": sum(s.weight for s in steps) / 4,
                "grad_norm": sum(s.grad_norm for s in steps) / 4,
                "grad_share": sum(s.grad_share for s in steps) / 4,
                "cosine": sum(s.cosine for s in steps) / 4,
                "pull": sum(s.weight * s.grad_norm for s in steps) / 4,
                "head_pull": sum(s.weight * s.head_grad_norm for s in steps) / 4,
            },
            abs=1e-6,
        )
    between = [t for t in taken if not t.measured.skipped]
    for i, a in enumerate(TASKS):
        others = ledger.cosines()[a]
        assert list(others) == [name for name in TASKS if name != a]
        for j, b in enumerate(TASKS):
            if a != b:
                each = [cosine(t.gradients[i], t.gradients[j]) for t in between]
                assert others[b] == pytest.approx(sum(each) / len(each), abs=1e-6)
    ledger.begin_epoch()
    assert set(ledger.means()["type"].values()) == {0}
    (event,) = events(known(9).measured, ledger=ledger)
    assert ledger.means()["type"]["weight"] == pytest.approx(event.tasks["type"].weight)


def test_sums_and_count_are_all_that_a_resume_needs() -> None:
    """Means continued from another ledger's sums and count equal an undisturbed epoch's."""
    whole, first, second = Ledger(TASKS), Ledger(TASKS), Ledger(TASKS)
    taken = [known(i).measured for i in range(6)]
    events(*taken, ledger=whole)
    events(*taken[:3], ledger=first)
    second.sums.copy_(first.sums)
    second.count = first.count
    events(*taken[3:], ledger=second)
    assert second.means() == whole.means()
    assert second.cosines() == whole.cosines()


def test_time_is_shared_among_the_steps_of_a_block() -> None:
    """`step_ms` is the time since the clock was started over the steps since then."""
    now = 100.0
    ledger = Ledger(TASKS, clock=lambda: now)
    now += 8.0
    eight = events(*(known(i).measured for i in range(4)), ledger=ledger)
    assert [event.step_ms for event in eight] == [2000] * 4
    now += 8.0
    ledger.start_clock()
    now += 0.5
    (after,) = events(known().measured, ledger=ledger)
    assert after.step_ms == 500


def test_nothing_to_fetch_is_no_event() -> None:
    """A fetch without steps gives nothing, and so does the one after a fetch."""
    ledger = Ledger(TASKS)
    assert list(ledger.fetch()) == []
    events(known().measured, ledger=ledger)
    assert list(ledger.fetch()) == []
