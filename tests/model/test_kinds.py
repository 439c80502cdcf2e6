"""Every kind of built-in network: shapes, an exact ledger, what a position sees, and learning."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from sklearn.datasets import load_digits
from torch import Tensor, nn

from job import spec
from job.data.dataset import load
from job.data.encoding.input_info import InputInfo
from job.model.built_in import BuiltIn
from job.model.deep import Deep
from job.model.dropout import Dropout
from job.model.entry import Embedding
from job.spec.read import parse_spec
from tests.support.nets import (
    FEATURES,
    MIXED,
    POINTERS,
    STEPS,
    TYPE,
    Batch,
    Net,
    batch,
    built_in,
    losses_of,
    task,
)
from tests.support.tiny_job import SMALL, State, Trained, job, write

MODEL: TypeAdapter[Any] = TypeAdapter(spec.Model)
DROPPED = {"input": 0.2, "hidden": 0.3, "heads": 0.4}
KINDS: dict[str, dict[str, Any]] = {
    "lstm": {"hidden": 4, "dropout": {"input": 0.2, "heads": 0.4}},
    "mlp": {"hidden": [7, 5], "dropout": DROPPED},
    "conv1d": {"width": 6, "layers": 3, "dropout": DROPPED},
    "conv2d": {"width": 6, "blocks": [1, 2], "dropout": DROPPED},
    "transformer": {"width": 8, "heads": 2, "dropout": DROPPED},
}
IMAGE = (2, 3, FEATURES)
"""As many pixels as a sequence of the other tests has steps."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def made(kind: str, tasks: list[spec.Task], **more: Any) -> BuiltIn:
    torch.manual_seed(0)
    section = {"kind": kind, "projection": 5} | KINDS[kind] | more
    shape = IMAGE if kind == "conv2d" else (STEPS, FEATURES)
    return built_in(MODEL.validate_json(json.dumps(section)), tasks, *shape)


def tasks_of(kind: str) -> list[spec.Task]:
    """Tasks that this kind can have."""
    return [TYPE, POINTERS] if kind == "mlp" else MIXED


def batch_of(kind: str) -> Batch:
    at = batch(tasks_of(kind))
    if kind != "conv2d":
        return at
    return at._replace(inputs={"features": at.inputs["features"].reshape(-1, *IMAGE)})


# --- the ledger -------------------------------------------------------------------------------


def test_the_ledger_is_exact(kind: str) -> None:
    """Gram matrix and every parameter's gradient are those of K single backwards through the whole
    network, dropout included."""
    tasks = tasks_of(kind)
    at = batch_of(kind)
    net = Net(tasks, model=made(kind, tasks), inputs=at.inputs)
    plain = copy.deepcopy(net.model)
    torch.manual_seed(3)
    measured = net.step(at)
    torch.manual_seed(3)
    z = plain.represent(at.inputs)
    leaf = z.detach().requires_grad_()
    by_step, _ = plain.read_steps(leaf)
    outputs = plain.outputs(by_step, [leaf.mean(1)] * plain.is_step.count(False))
    losses = losses_of(net, outputs, at)
    each = [torch.autograd.grad(loss, leaf, retain_graph=True)[0].flatten() for loss in losses]
    torch.testing.assert_close(
        measured.gram, torch.stack(each) @ torch.stack(each).T, rtol=2e-5, atol=1e-7
    )
    torch.manual_seed(3)
    torch.stack(losses_of(net, plain(at.inputs), at)).sum().backward()
    for (name, mine), theirs in zip(net.model.named_parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None, name
        assert theirs.grad is not None, name
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=2e-5, atol=1e-6)


def test_dropout_is_our_own(kind: str) -> None:
    """No module draws a mask that would differ between ranks."""
    for name, module in made(kind, tasks_of(kind)).named_modules():
        assert not isinstance(module, nn.Dropout) or isinstance(module, Dropout), name
        if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            assert module.dropout == 0, name


# --- what a position sees -----------------------------------------------------------------------


def seen(model: BuiltIn, at: int) -> Tensor:
    """[T], by how much z at a position depends on the features at each."""
    torch.manual_seed(0)
    x = torch.randn(1, 40, FEATURES).requires_grad_()
    z = model.eval().represent({"features": x})
    # Not the plain sum: behind a layer norm it is constant, and its gradient is rounding alone.
    (gradient,) = torch.autograd.grad(z[0, at] @ torch.randn(z.shape[-1]), x)
    return gradient[0].abs().sum(1)


def test_a_causal_convolution_sees_nothing_later() -> None:
    section = {"kind": "conv1d", "width": 6, "layers": 3}
    causal, both = (
        built_in(MODEL.validate_python(section | {"causal": c}), [TYPE], 40, FEATURES)
        for c in (True, False)
    )
    depends = seen(causal, 20)
    assert not depends[21:].any()
    assert depends[20 - 14 : 21].all()  # 1 + 2 × (1 + 2 + 4) steps
    assert not depends[: 20 - 14].any()
    depends = seen(both, 20)
    assert depends[13:28].all()
    assert not depends[:13].any()


def test_attention_sees_all_and_tells_positions_apart() -> None:
    model = built_in(
        MODEL.validate_python({"kind": "transformer", "width": 8, "heads": 2}), [TYPE], 40, FEATURES
    )
    assert seen(model, 3).all()
    x = torch.randn(1, 40, FEATURES)
    z, swapped = (model.represent({"features": each}).mean(1) for each in (x, x.flip(1)))
    assert not torch.allclose(z, swapped)


@pytest.mark.parametrize(("level", "positions"), [("window", 4 * 4), ("step", 8 * 8)])
def test_images_are_halved_unless_a_task_has_pixels(level: str, positions: int) -> None:
    model = built_in(MODEL.validate_python({"kind": "conv2d", "width": 8}), [
        task("it", level, "mse")], 8, 8, 3)  # fmt: skip
    assert model.represent({"features": torch.randn(2, 8, 8, 3)}).shape == (2, positions, 16)


def test_a_share_is_no_other_tasks_stack() -> None:
    """Whatever its name: a task's own layers stay its own."""
    tasks = [
        task("kind", "window", "mse"),
        task("level", "window", "mse", head={"share": "task_kind"}),
        task("other", "window", "mse", head={"share": "keys"}),
    ]
    shape = {"features": (STEPS, FEATURES)}
    section = MODEL.validate_python({"kind": "lstm", "hidden": 3})
    model = Deep(section, tasks, {"features": InputInfo()}, shape)
    assert len(set(model.stack_of.values())) == 3


# --- several inputs -----------------------------------------------------------------------------


def test_inputs_are_joined_at_each_position() -> None:
    """Codes are embedded, and an input of one position is repeated at the others'."""
    about = {"series": InputInfo(), "who": InputInfo(codes=(7, 3)), "age": InputInfo()}
    shapes = {"series": (STEPS, 2), "who": (1, 2), "age": (1, 1)}
    model = BuiltIn(MODEL.validate_python({"kind": "conv1d"}), [TYPE], about, shapes)
    draw = torch.Generator().manual_seed(0)
    inputs = {
        "series": torch.randn(4, STEPS, 2, generator=draw),
        "who": torch.randint(3, (4, 1, 2), generator=draw),
        "age": torch.randn(4, 1, 1, generator=draw),
    }
    joined, _ = model.trunk.entry(inputs)
    who = model.trunk.entry.by_input["input_who"]
    assert isinstance(who, Embedding)
    assert joined.shape == (4, STEPS, 2 + who.width + 1)
    assert torch.equal(joined[..., :2], inputs["series"])
    for t in range(STEPS):
        assert torch.equal(joined[:, t, -1:], inputs["age"][:, 0])
        assert torch.equal(joined[:, t, 2:-1], who(inputs["who"])[:, 0])


# --- learning -----------------------------------------------------------------------------------

DIGITS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "conv2d": {"width": 8},
    "lstm": {"hidden": 24, "dropout": {"input": 0.0, "heads": 0.0}},
    "conv1d": {"width": 24, "layers": 3},
    "transformer": {"width": 24},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DIGITS)
def test_defaults_learn_real_digits(kind: str, tmp_path: Path) -> None:
    """A few lines of spec classify handwritten digits, and tell where their ink lies; the control
    with permuted targets does not."""
    images = load_digits().images.astype("f4")
    rows = (images.sum(2) * np.arange(8)).sum(1) / images.sum((1, 2))
    np.savez(tmp_path / "digits.npz", digit=load_digits().target, row=rows, features=images)
    as_images = {"inputs": {"image": {"source": "features", "kind": "image"}}}
    content = {
        "name": "digits",
        "data": {"kind": "arrays", "path": "digits.npz"} | (as_images if kind == "conv2d" else {}),
        "model": {"kind": kind} | DIGITS[kind],
        "tasks": [
            {"name": "digit", "level": "sample", "outputs": 10, "loss": {"kind": "cross_entropy"}},
            {
                "name": "row",
                "level": "sample",
                "loss": {"kind": "mse"},
                "transform": {"kind": "standardize"},
            },
        ],
        "train": {"epochs": 6, "batch_size": 32, "threads": 1},
    }
    skills = {}
    for control in (False, True):
        read = parse_spec(json.dumps(content | {"control": control}))
        trained = Trained(read, load(read, tmp_path))
        trained.run()
        skills[control] = [task.val_skill or 0.0 for task in trained.epochs[-1].tasks.values()]
    assert min(skills[False]) > 0.4, skills
    assert max(skills[True]) < 0.1, skills


def test_a_resumed_run_is_the_same(kind: str, tmp_path: Path) -> None:
    """It goes on in the middle of an epoch as if it had not been stopped."""
    write(tmp_path)
    edits: dict[str, Any] = {"model": {"kind": kind} | KINDS[kind]}
    if kind == "mlp":
        edits["tasks"] = [each for each in SMALL["tasks"] if each["level"] == "window"]
    if kind == "conv2d":
        with np.load(tmp_path / "small.npz") as stored:
            arrays = dict(stored)
        np.savez(tmp_path / "small.npz", image=arrays["features"].reshape(-1, *IMAGE), **arrays)
        edits["data.inputs"] = {"image": {"kind": "image", "channels": "last"}}
    read, data = job(tmp_path, edits)
    whole = Trained(read, data)
    whole.run()
    theirs = State(whole.training).tensors
    first = Trained(read, data)
    first.run(stop_at=7)
    saved = State(first.training)
    second = Trained(read, data)
    saved.into(second.training)
    second.run()
    mine = State(second.training).tensors
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
