"""Padding: it enters neither z at real positions, nor its mean, nor a loss, nor a gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from job import spec
from job.data.encoding.input_info import MASK
from job.model.built_in import BuiltIn
from job.model.losses import TaskLoss
from tests.support.nets import (
    BINARY,
    CLASSES,
    COUNTDOWN,
    MIXED,
    POINTERS,
    TYPE,
    WIDE,
    Batch,
    Net,
    built_in,
)
from tests.support.nets import batch as full_batch

MODEL: TypeAdapter[Any] = TypeAdapter(spec.Model)
NONE = {"input": 0.0, "heads": 0.0}
KINDS: dict[str, dict[str, Any]] = {
    "lstm": {"hidden": 4, "layers": 2, "dropout": NONE},
    "conv1d": {"width": 6, "layers": 3, "dropout": NONE | {"hidden": 0.0}},
    "transformer": {"width": 8, "heads": 2, "dropout": NONE | {"hidden": 0.0}},
}
STEPS, FEATURES = 6, 3
LENGTHS = [6, 1, 4, 2, 5]
REAL = torch.arange(STEPS) < torch.tensor(LENGTHS)[:, None]
GAPS = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 1, 0]] * 2 + [[0, 1, 1, 1, 1, 1]]).bool()
SETS = {
    "mixed": MIXED,
    "window tasks alone": [TYPE, POINTERS],
    "step tasks alone": [CLASSES, COUNTDOWN],
    "many outputs": [WIDE, BINARY, TYPE],
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def made(kind: str, tasks: list[spec.Task], steps: int = STEPS) -> BuiltIn:
    torch.manual_seed(0)
    section = MODEL.validate_python({"kind": kind, "projection": 5} | KINDS[kind])
    return built_in(section, tasks, steps, FEATURES)


def padded(tasks: list[spec.Task], real: Tensor) -> Batch:
    """A batch without labels at padding."""
    at = full_batch(tasks)
    targets = [
        y
        if t.level == "window"
        else torch.where(real, y, -1)
        if y.dim() == 2
        else torch.where(real.unsqueeze(-1), y, torch.nan)
        for t, y in zip(tasks, at.targets, strict=True)
    ]
    return Batch(at.inputs | {MASK: real}, targets)


def net_of(kind: str, tasks: list[spec.Task]) -> Net:
    net = Net(tasks, model=made(kind, tasks))
    for loss in net.stepper.of_tasks:
        loss.partial = loss.uneven = True
    return net


def garbage(x: Tensor, real: Tensor) -> Tensor:
    """x [B, T, F] with huge values at padding."""
    return torch.where(real.unsqueeze(-1), x, 1e6 * torch.randn_like(x))


@pytest.mark.parametrize("case", [*KINDS, "lstm with gaps"])
def test_real_positions_are_those_of_a_sample_alone(case: str) -> None:
    """z of a padded sample is that of its real positions, computed by themselves; in the LSTM even
    around gaps, whose places the other kinds see."""
    kind, real = case.split()[0], GAPS if "gaps" in case else REAL
    model = made(kind, MIXED)
    x = full_batch(MIXED).inputs["features"]
    z = model.represent({"features": garbage(x, real), MASK: real})
    for i, mine in enumerate(real):
        shorter = made(kind, MIXED, int(mine.sum()))
        shorter.load_state_dict(model.state_dict())
        alone = shorter.represent({"features": x[i : i + 1, mine]})
        torch.testing.assert_close(z[i, mine], alone[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("real", [REAL, GAPS], ids=["lengths", "gaps"])
@pytest.mark.parametrize("training", [True, False])
def test_garbage_at_padding_changes_nothing(kind: str, real: Tensor, training: bool) -> None:
    """Not a bit of what the tasks read depends on what stands at padding."""
    model = made(kind, MIXED).train(training)
    x = full_batch(MIXED).inputs["features"]
    with torch.no_grad():
        one, two = (model({"features": values, MASK: real}) for values in (x, garbage(x, real)))
    for task, mine, theirs in zip(MIXED, one, two, strict=True):
        if task.level == "step":
            mine, theirs = mine[real], theirs[real]
        assert torch.equal(mine, theirs), task.name


def test_longer_padding_changes_nothing(kind: str) -> None:
    """Losses, Gram matrix and every gradient stay as they are if each sample gets 7 steps more."""
    at, more = padded(MIXED, REAL), 7
    short, long = net_of(kind, MIXED), Net(MIXED, model=made(kind, MIXED, STEPS + more))
    for loss in long.stepper.of_tasks:
        loss.partial = loss.uneven = True
    longer = Batch(
        {
            "features": torch.nn.functional.pad(at.inputs["features"], (0, 0, 0, more), value=9.0),
            MASK: torch.nn.functional.pad(REAL, (0, more)),
        },
        [
            y
            if t.level == "window"
            else torch.nn.functional.pad(y, (0, more), value=-1)
            if y.dim() == 2
            else torch.nn.functional.pad(y, (0, 0, 0, more), value=torch.nan)
            for t, y in zip(MIXED, at.targets, strict=True)
        ],
    )
    one, two = short.step(at), long.step(longer)
    for mine, theirs in (
        (one.losses, two.losses),
        (one.originals, two.originals),
        (one.gram, two.gram),
        (one.head_norms, two.head_norms),
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)
    for (name, p), q in zip(short.model.named_parameters(), long.model.parameters(), strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("tasks", SETS.values(), ids=SETS)
@pytest.mark.parametrize("real", [REAL, GAPS], ids=["lengths", "gaps"])
def test_the_ledger_is_exact_with_padding(kind: str, tasks: list[spec.Task], real: Tensor) -> None:
    """Gram matrix and every gradient are those that autograd finds, where each window task reads
    the mean of each sample's real positions and each step task has their labels alone."""
    at, net = padded(tasks, real), net_of(kind, tasks)
    plain = copy.deepcopy(net.model)
    measured = net.step(at)
    z = plain.represent(at.inputs)
    leaf = z.detach().requires_grad_()

    def losses(z: Tensor) -> list[Tensor]:
        pooled = torch.stack([one[mine].mean(0) for one, mine in zip(z, real, strict=True)])
        by_step, _ = plain.read_steps(z)
        outputs = plain.outputs(by_step, [pooled] * plain.is_step.count(False))
        found = []
        for t, out, y in zip(tasks, outputs, at.targets, strict=True):
            kept = (out[real], y[real]) if t.level == "step" else (out, y)
            found.append(TaskLoss(t, partial=False)(*kept)[0])
        return found

    each = [torch.autograd.grad(x, leaf, retain_graph=True)[0] for x in losses(leaf)]
    flat = torch.stack([grad.flatten() for grad in each])
    torch.testing.assert_close(measured.gram, flat @ flat.T, rtol=2e-5, atol=1e-7)
    for grad in each:
        assert not grad[~real].any()
    torch.stack(losses(z)).sum().backward()
    for (name, mine), theirs in zip(net.model.named_parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None, name
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=2e-5, atol=1e-6, msg=name)


def test_an_mlp_reads_zeros_at_padding() -> None:
    """The network has a weight for each position, and garbage reaches none."""
    model = built_in(spec.Mlp(kind="mlp", hidden=(5,)), [TYPE], STEPS, FEATURES).eval()
    x = full_batch([TYPE]).inputs["features"]
    one, two = (model({"features": values, MASK: REAL})[0] for values in (x, garbage(x, REAL)))
    assert torch.equal(one, two)
    zero = torch.where(REAL.unsqueeze(-1), x, 0.0)
    assert torch.equal(one, model({"features": zero})[0])
