"""The optimizer's groups and the schedules."""

from __future__ import annotations

import math

import pytest
import torch

from job import spec
from job.model.losses import TaskLoss
from job.train.gradients.ownership import ownership
from job.train.step import Stepper
from job.train.updates import optimizer
from job.train.updates.schedule import schedule_factor as factor_of
from tests.support.nets import MIXED, Net, balancer, batch, network


def build(adamw: spec.AdamW, lr: float | None = None) -> tuple[torch.optim.Optimizer, Stepper]:
    losses = [TaskLoss(t) for t in MIXED]
    model, own = network(MIXED), balancer(MIXED, {"kind": "uncertainty"})
    stepper = Stepper(model, ownership(model, batch(MIXED).inputs), losses, own)
    return optimizer.build_optimizer(
        adamw, spec.Uncertainty(kind="uncertainty", lr=lr), stepper
    ), stepper


def rates(adamw: torch.optim.Optimizer) -> dict[str, float]:
    return {group["part"]: group["lr"] for group in adamw.param_groups}


def test_every_parameter_is_in_one_group() -> None:
    """Trunk, heads and balancer together hold every parameter of the stepper once."""
    adamw, stepper = build(spec.AdamW())
    held = [id(p) for group in adamw.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in stepper.parameters())
    assert [group["part"] for group in adamw.param_groups] == ["trunk", "heads", "balancer"]


def test_each_room_has_its_own_rate_and_decay() -> None:
    """Heads and balancer take their own rates where the spec gives them, else the optimizer's; the
    balancer's parameters never decay."""
    adamw, _ = build(spec.AdamW(lr=0.1, head_lr=0.2, weight_decay=0.3, betas=(0.8, 0.9)), lr=0.4)
    assert rates(adamw) == {"trunk": 0.1, "heads": 0.2, "balancer": 0.4}
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.3, 0.3, 0.0]
    assert all(group["betas"] == (0.8, 0.9) for group in adamw.param_groups)
    assert rates(build(spec.AdamW(lr=0.1))[0]) == dict.fromkeys(rates(adamw), 0.1)


def test_a_balancer_without_parameters_has_no_group() -> None:
    """Only rooms that hold parameters are groups."""
    assert list(rates(Net(MIXED).optimizer)) == ["trunk", "heads"]


def test_weight_decay_leaves_the_log_variances_alone() -> None:
    """Whatever the weight decay, a step moves the log variances the same."""
    moved = []
    for decay in (0.0, 10.0):
        adamw, stepper = build(spec.AdamW(lr=0.01, weight_decay=decay))
        log_variance = stepper.balancer.get_parameter("log_variance")
        log_variance.data.fill_(2.0)
        at = batch(MIXED)
        torch.manual_seed(0)
        stepper(at.inputs, at.targets, adamw)
        moved.append(log_variance.detach().clone())
    assert torch.equal(*moved)


def test_state_is_whole_before_the_first_step() -> None:
    """An optimizer that took no step has the state tensors of one that did, all 0."""
    fresh, used = Net(MIXED), Net(MIXED)
    used.step(batch(MIXED))
    before, after = (n.optimizer.state_dict()["state"] for n in (fresh, used))
    assert before.keys() == after.keys()
    for i, moments in before.items():
        assert {name: (v.shape, v.dtype) for name, v in moments.items()} == {
            name: (v.shape, v.dtype) for name, v in after[i].items()
        }
        assert not any(v.any() for v in moments.values())


def schedule_factor(schedule: str, step: int, steps: int) -> float:
    train = spec.Train.model_validate({"epochs": 1, "batch_size": 1, "schedule": schedule})
    return factor_of(train, step, steps)


# --- schedules --------------------------------------------------------------------------------


def test_constant_never_changes() -> None:
    """The constant schedule is 1 throughout."""
    assert {schedule_factor("constant", step, 50) for step in range(50)} == {1.0}


def test_cosine_falls_from_one_to_zero() -> None:
    """Cosine: 1 at the start, ½ in the middle, 0 at the end, falling all the way."""
    values = [schedule_factor("cosine", step, 100) for step in range(101)]
    assert (values[0], values[100]) == (1.0, 0.0)
    assert values[50] == pytest.approx(0.5)
    assert values[99] > 0  # the last step still moves
    assert values == sorted(values, reverse=True)


def test_one_cycle_warms_up_then_falls() -> None:
    """One cycle: 0.04 at the start, 1 after 30 % of the steps, ½ midway of the rest, 0 at the end,
    with one peak."""
    values = [schedule_factor("one_cycle", step, 100) for step in range(101)]
    assert values[0] == pytest.approx(0.04)
    assert values[15] == pytest.approx(0.52)
    assert values[30] == pytest.approx(1.0)
    assert values[65] == pytest.approx(0.5)
    assert values[100] == pytest.approx(0.0)
    assert values[:31] == sorted(values[:31])
    assert values[30:] == sorted(values[30:], reverse=True)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_a_run_of_one_step_still_moves(schedule: str) -> None:
    """Even a run of one step has a rate that is positive and finite."""
    assert 0 < schedule_factor(schedule, 0, 1) <= 1


def test_scheduled_rates_keep_the_rooms_apart() -> None:
    """Each room's rate is its own base times the factor, however often it is set."""
    adamw, _ = build(spec.AdamW(lr=0.1, head_lr=0.2), lr=0.4)
    for scheduled in (0.5, 0.25, 1.0, 0.5):
        optimizer.set_rate(adamw, scheduled)
        expected = {"trunk": 0.1 * scheduled, "heads": 0.2 * scheduled, "balancer": 0.4 * scheduled}
        assert rates(adamw) == expected


def test_a_rate_of_zero_moves_nothing() -> None:
    """At the end of a cosine schedule a step changes no parameter."""
    net = Net(MIXED)
    optimizer.set_rate(net.optimizer, schedule_factor("cosine", 10, 10))
    before = [p.detach().clone() for p in net.model.parameters()]
    net.step(batch(MIXED))
    assert all(map(torch.equal, before, net.model.parameters()))
    assert math.isclose(net.optimizer.param_groups[0]["base_lr"], 1e-2)
