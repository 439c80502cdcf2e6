"""A batch in parts is one batch: in gradients, Gram matrix and losses, over ranks too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from job.distributed.ranks import ALONE
from job.train.gradients.elements import Part
from job.train.step import Measured
from tests.support.foreign_nets import CASES, Foreign, Given, given
from tests.support.nets import MIXED, Net, batch
from tests.support.tiny_job import PARTIAL, SMALL, TRAIN, State, Trained, job, write
from tests.support.two_ranks import Pair, pair, train

BALANCERS: dict[str, dict[str, Any]] = {
    "fixed": {"kind": "fixed", "weights": {"down": 2.0}},
    "gradient_norm": {"kind": "gradient_norm"},
    "uncertainty": {"kind": "uncertainty", "lr": 0.1},
    "running_mean": {"kind": "running_mean", "warmup": 3},
    "UPGrad": {"kind": "torchjd", "method": "UPGrad"},
}
NO_DROPOUT: dict[str, Any] = {
    "model": {"hidden": 4, "projection": 4, "dropout": {"input": 0.0, "heads": 0.0}},
    "optimizer.lr": 0.02,
    "train.clip": 0.5,
    "train.epochs": 2,
    "log.audit_every": 2,
}
WHOLE = NO_DROPOUT | {"train.batch_size": 12}
NORMALIZED = ("conv",)
"""Networks that normalize over a batch, which is each part then."""
IN_PARTS = NO_DROPOUT | {
    "train.batch_size": 5,
    "train.accumulate": {"steps": 3, "weights": "exact"},
}
"""15 samples in an update, and a last one of 6 = 5 + 1."""
FIELDS = ("loss", "loss_original", "weight", "grad_norm", "head_grad_norm", "cosine")


def assert_same_steps(one: Trained, other: Trained) -> None:
    """The events of the steps have the same numbers, to rounding; so have the parameters."""
    assert len(one.steps) == len(other.steps) > 4
    for mine, theirs in zip(one.steps, other.steps, strict=True):
        for name, task in mine.tasks.items():
            for field in (*FIELDS, "shared_grad_norm", "labelled"):
                expected = getattr(theirs.tasks[name], field)
                found = getattr(task, field)
                if expected is None:
                    assert found is None
                    continue
                assert found == pytest.approx(expected, rel=2e-4, abs=2e-6), (mine.step, field)
    for name, tensor in State(one.training).tensors.items():
        if name.startswith("model."):
            torch.testing.assert_close(
                tensor, State(other.training).tensors[name], rtol=1e-3, atol=1e-5
            )


@pytest.mark.parametrize("tasks", [SMALL["tasks"], PARTIAL], ids=["whole", "labels missing"])
@pytest.mark.parametrize("balance", ["fixed", "gradient_norm", "uncertainty"])
def test_parts_with_exact_weights_train_as_one(
    tmp_path: Path, balance: str, tasks: list[dict[str, Any]]
) -> None:
    """A run in parts of 5 takes the steps of a run in batches of 15."""
    write(tmp_path)
    edits = {"balance": BALANCERS[balance], "tasks": tasks}
    whole = Trained(*job(tmp_path, NO_DROPOUT | edits | {"train.batch_size": 15}))
    assert whole.run()
    parts = Trained(*job(tmp_path, IN_PARTS | edits))
    assert parts.run()
    assert parts.training.total_steps == 6
    assert_same_steps(parts, whole)


def test_weights_of_the_batch_before(tmp_path: Path) -> None:
    """With `previous`, each step's weights are those that the step before has measured; the
    gradients and the Gram matrix are exact all the same."""
    write(tmp_path)
    edits = IN_PARTS | {"balance": BALANCERS["gradient_norm"], "optimizer.lr": 1e-9}
    previous = {"train.accumulate": {"steps": 3, "weights": "previous"}}
    exact = Trained(*job(tmp_path, edits))
    assert exact.run()
    late = Trained(*job(tmp_path, edits | previous))
    assert late.run()
    for name in exact.steps[0].tasks:
        own = [step.tasks[name].weight for step in exact.steps]
        held = [step.tasks[name].weight for step in late.steps]
        assert held == pytest.approx([own[0], *own[:-1]], rel=1e-4)
        norms = [step.tasks[name].grad_norm for step in exact.steps]
        assert [s.tasks[name].grad_norm for s in late.steps] == pytest.approx(norms, rel=1e-4)


def test_the_effective_batch_and_the_noise_are_in_the_events(tmp_path: Path) -> None:
    """An epoch of a run in parts has a noise scale; one without parts has none."""
    write(tmp_path)
    run = Trained(*job(tmp_path, IN_PARTS))
    assert run.run()
    assert run.training.effective_batch == 15
    assert all(epoch.noise_scale is not None for epoch in run.epochs)
    plain = Trained(*job(tmp_path, NO_DROPOUT))
    assert plain.run()
    assert all(epoch.noise_scale is None for epoch in plain.epochs)


def _flat(net: Net, tasks: Sequence[int], at: Part) -> Tensor:
    """The gradient of the sum of the losses of some rows at the trunk's parameters."""
    outputs = net.model(at.inputs)
    losses = [
        loss(o, y)[0] for loss, o, y in zip(net.stepper.losses, outputs, at.targets, strict=True)
    ]
    trunk = [p for name, p in net.model.named_parameters() if name.startswith("trunk.")]
    grads = torch.autograd.grad(sum(losses[k] for k in tasks), trunk)
    return torch.cat([g.flatten() for g in grads])


@pytest.mark.slow
def test_the_noise_is_that_of_the_samples() -> None:
    """Over many batches the estimate comes to the trace of the samples' covariance over the square
    of the mean gradient, both from single samples by autograd."""
    net = Net(MIXED, dropout=0.0, lr=1e-12, accumulate="previous")
    pool, count = batch(MIXED, 64), len(MIXED)

    def rows(at: Tensor) -> Part:
        return Part({n: x[at] for n, x in pool.inputs.items()}, [y[at] for y in pool.targets])

    single = [_flat(net, range(count), rows(torch.tensor([i]))) for i in range(64)]
    each = torch.stack(single).double()
    mean = each.mean(0)
    variance, square = (each - mean).square().sum(1).mean(), mean.square().sum()
    draw = torch.Generator().manual_seed(0)
    for step in range(1, 301):
        chosen = [torch.randint(64, (4,), generator=draw) for _ in range(4)]
        net.stepper.update([rows(i) for i in chosen], net.optimizer, False, step)
    found = net.stepper.noise / 300
    assert found[0].item() == pytest.approx(variance.item(), rel=0.1)
    assert found[1].item() == pytest.approx(square.item(), rel=0.2)


@pytest.mark.parametrize("weights", ["previous", "exact"])
def test_each_step_follows_from_the_state_before(
    tmp_path: Path, weights: Literal["previous", "exact"]
) -> None:
    """With dropout and a balancer with a state, a run resumed anywhere repeats bit for bit."""
    write(tmp_path)
    edits = {
        "train.batch_size": 5,
        "train.accumulate": {"steps": 3, "weights": weights},
        "balance": {"kind": "running_mean", "warmup": 2},
        "checkpoint.every_steps": 1,
        "train.epochs": 2,
    }
    spec, data = job(tmp_path, edits)
    whole = Trained(spec, data)
    assert whole.run()
    assert [state.step for state in whole.saved] == list(range(1, 2 * -(-TRAIN // 15) + 1))
    for before, after in list(zip(whole.saved, whole.saved[1:], strict=False)):
        resumed = Trained(spec, data)
        torch.manual_seed(before.step)
        before.into(resumed.training)
        resumed.run(stop_at=after.step + 1)
        for name, tensor in resumed.saved[0].tensors.items():
            assert torch.equal(tensor, after.tensors[name]), name


@pytest.mark.parametrize("weights", ["previous", "exact"])
def test_steps_between_measurements(tmp_path: Path, weights: str) -> None:
    """Parts of a batch train with the weights held from the last measurement, and resume so."""
    write(tmp_path)
    edits = {
        "train.batch_size": 4,
        "train.accumulate": {"steps": 2, "weights": weights},
        "log": {"ledger_every": 3, "audit_every": 0, "every": 4},
    }
    read, data = job(tmp_path, edits)
    whole = Trained(read, data)
    assert whole.run()
    theirs = State(whole.training).tensors
    first = Trained(read, data)
    first.run(stop_at=5)
    saved = State(first.training)
    second = Trained(read, data)
    saved.into(second.training)
    assert second.run()
    mine = State(second.training).tensors
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


FOREIGN = [name for name in CASES if name not in NORMALIZED]


@pytest.mark.parametrize("name", FOREIGN)
def test_any_network_in_parts(name: str) -> None:
    """Gradients, Gram matrix, losses, norms and audit of three uneven parts are those of the whole
    batch, measured or as a plain sum, with half of the labels missing."""
    for step in (1, 2):
        section = {"kind": "gradient_norm"}
        one = Foreign(name, section, partial=True, every=2)
        other = Foreign(name, section, partial=True, every=2, accumulate="exact")
        for stepper in (one.stepper.train(), other.stepper.train()):
            for module in stepper.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        at = given(one.tasks, 12, partial=True)
        whole = one.step(at, step, audit=True)
        parts = other.stepper.update(cut(at, (5, 5, 2)), other.optimizer, True, step)
        assert_same_step(whole, parts)
        for parameter, grad in one.grads().items():
            found = other.grads()[parameter]
            torch.testing.assert_close(found, grad, rtol=2e-4, atol=1e-6, msg=parameter)


def test_a_first_pass_leaves_statistics_alone() -> None:
    """Also where a module of one's own puts another tensor into a buffer's place."""
    net = Net(MIXED, dropout=0.0, section={"kind": "gradient_norm"}, accumulate="exact")
    scaling = net.model.scalings["features"]
    scaling.register_buffer("seen", torch.zeros(()))
    scaling.register_forward_hook(lambda module, *_: setattr(module, "seen", module.seen + 1))
    at = batch(MIXED, 8)
    parts = [Part(at.inputs, at.targets), Part(at.inputs, at.targets)]
    net.stepper.update(parts, net.optimizer, False, 1)
    assert scaling.seen == 2


def cut(at: Given, sizes: Sequence[int]) -> list[Part]:
    """Parts of a batch."""

    def of(tensors: Sequence[Tensor | None]) -> list[list[Any]]:
        each = [[None] * len(sizes) if x is None else list(x.split(list(sizes))) for x in tensors]
        return [list(part) for part in zip(*each, strict=True)]

    inputs, targets, weights = of(list(at.inputs.values())), of(at.targets), of(at.of_samples)
    return [
        Part(dict(zip(at.inputs, x, strict=True)), y, None, w)
        for x, y, w in zip(inputs, targets, weights, strict=True)
    ]


def assert_same_step(one: Measured, other: Measured) -> None:
    """The measurements are the same, to rounding."""
    for field, expected in one._asdict().items():
        found = getattr(other, field)
        if expected is None:
            assert found is None, field
        else:
            torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-6, msg=field)


@pytest.fixture(scope="module")
def two() -> Iterator[Pair]:
    """Two ranks."""
    with pair() as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["previous", "exact"])
@pytest.mark.parametrize("tasks", [SMALL["tasks"], PARTIAL], ids=["whole", "labels missing"])
def test_two_ranks_in_parts_train_as_one(
    two: Pair, tmp_path: Path, tasks: list[dict[str, Any]], weights: str
) -> None:
    """Parts of 3 rows and of 1 row over two ranks, with dropout: the steps of one process."""
    folder = write(tmp_path).parent
    edits = {
        "tasks": tasks,
        "train.batch_size": 5,
        "train.epochs": 2,
        "train.accumulate": {"steps": 3, "weights": weights},
        "optimizer.lr": 0.02,
        "balance": {"kind": "running_mean", "warmup": 2},
        "log.audit_every": 2,
    }
    alone = train(ALONE, folder, edits)
    first, second = two.both(train, folder, edits)
    for name, tensor in first.end.tensors.items():
        assert torch.equal(tensor, second.end.tensors[name]), name
        if not name.startswith(("generator", "stepper.noise", "noise")):
            expected = alone.end.tensors[name]
            torch.testing.assert_close(tensor, expected, rtol=1e-3, atol=1e-4, msg=name)
