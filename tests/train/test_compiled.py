"""PyTorch's compiler changes how trunk and heads are computed, and nothing that they compute."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from job.errors import InputError
from job.spec import Lstm, Mlp
from job.spec.read import parse_spec
from job.train.build.compiled import PARTS, check_compiler, check_cut, compile_ahead, compiled
from job.train.gradients.elements import Part
from job.train.step import Measured, Stepper
from tests.support.foreign_nets import Foreign, copied, given
from tests.support.nets import MIXED, Net, batch
from tests.support.tiny_job import edited, write

BACKEND = "aot_eager"
"""Traces and differentiates as for a compiler, which the machine need not have."""


def compiled_step(stepper: Stepper, calls: list[str]) -> None:
    """Have its network compiled; each call of a compiled part is noted."""
    face = compiled(stepper.model, BACKEND)
    for name in PARTS:
        if (part := vars(face).get(name)) is not None:
            setattr(face, name, _noted(part, name, calls))
    passes = stepper.passes
    passes.model = passes.route.model = face  # type: ignore[attr-defined]


def _noted(part: Any, name: str, calls: list[str]) -> Any:
    def call(*arguments: Any) -> Any:
        calls.append(name)
        return part(*arguments)

    return call


def assert_close(one: Measured, other: Measured) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["our shared layers", "conv", "our MMoE", "dict"],
)
@pytest.mark.slow
def test_the_ledger_of_a_compiled_network_is_exact(name: str) -> None:
    """Losses, Gram matrix and audits are those of K backwards by autograd, with half of the labels
    missing, weights and dropout; each parameter's gradient is that of their weighted sum."""
    plain = Foreign(name, {"kind": "gradient_norm"}, partial=True)
    net, calls = copied(plain), list[str]()
    compiled_step(net.stepper, calls)
    names = list(net.stepper.state_dict())
    for seed in range(2):
        at = given(net.tasks, seed=seed, partial=True)
        torch.manual_seed(seed)
        outputs = plain.model.train()(at.inputs)
        losses = plain.task_losses(outputs, at)
        below = [dict(plain.model.named_parameters())[n] for n in plain.known.below]
        exact = [
            torch.cat([g.flatten() for g in torch.autograd.grad(x, below, retain_graph=True)])
            for x in losses
        ]
        torch.manual_seed(seed)
        measured = net.step(at, audit=True)
        torch.testing.assert_close(measured.losses, torch.stack(losses).detach())
        assert measured.audit is not None
        torch.testing.assert_close(measured.audit, torch.stack([g.norm() for g in exact]))
        torch.manual_seed(seed)
        assert_close(measured, plain.step(at, audit=True))
        for p, grad in net.grads().items():
            torch.testing.assert_close(grad, plain.grads()[p], rtol=1e-4, atol=1e-7)
    assert calls == ["represent", "read_each"] * 2
    assert list(net.stepper.state_dict()) == names
    assert not any("_orig_mod" in name for name in names)


@pytest.mark.parametrize("kind", [pytest.param("lstm", marks=pytest.mark.slow), "mlp"])
def test_so_is_that_of_our_own_networks(kind: str) -> None:
    """The factored route gives what it gives without the compiler, dropout included."""
    torch.manual_seed(0)
    from tests.support.nets import FEATURES, STEPS, built_in

    section = Lstm(hidden=4, projection=5) if kind == "lstm" else Mlp(kind="mlp", hidden=(7,))
    tasks = MIXED if kind == "lstm" else [t for t in MIXED if t.level == "window"]
    plain = Net(tasks, model=built_in(section, tasks, STEPS, FEATURES))
    net, calls = copy.deepcopy(plain), list[str]()
    compiled_step(net.stepper, calls)
    for seed in range(2):
        at = batch(tasks, seed=seed)
        measured = []
        for each in (plain, net):
            torch.manual_seed(seed)
            measured.append(each.step(at, audit=True))
        assert_close(*measured)
    assert calls == ["represent", "read_steps", "outputs"] * 2


def test_compiling_ahead_changes_nothing() -> None:
    """Parameters, statistics, moments, gradients and the generator are as before; it takes time,
    and the first step compiles nothing more."""
    net = Foreign("conv")
    compiled_step(net.stepper, [])
    at = given(net.tasks)
    before = {n: t.clone() for n, t in net.stepper.state_dict().items()}
    generator = torch.get_rng_state()
    assert compile_ahead(net.stepper, Part(at.inputs, at.targets)) > 0
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(p.grad is None for p in net.model.parameters())
    for name, now in net.stepper.state_dict().items():
        assert torch.equal(now, before[name]), name
    net.model.train()
    with torch.compiler.set_stance("fail_on_recompile"):
        net.step(at)


def test_a_network_without_a_z_is_refused() -> None:
    """In one line, which says why."""
    with pytest.raises(InputError) as caught:
        check_cut(Foreign("whole").known)
    assert str(caught.value) == (
        "$.train.compile: found true; trunk and heads must be apart, but the network has no shared "
        "representation: it defines forward alone; set it to false"
    )


def test_a_machine_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, by name."""
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    with pytest.raises(InputError) as caught:
        check_compiler(torch.device("cpu"))
    assert str(caught.value) == (
        "$.train.compile: found true; there is no C++ compiler no-such-compiler here; install it "
        "(Debian: apt-get install g++), or set it to false"
    )


def test_a_network_that_does_not_compile_is_refused() -> None:
    """What the compiler raises before the first step becomes one line."""
    net = Foreign("conv")

    def fail(*_: Tensor) -> Tensor:
        raise RuntimeError("no such kernel\nmore")

    net.stepper.passes.route.model = copy.copy(net.model)  # type: ignore[attr-defined]
    net.stepper.passes.route.model.represent = fail  # type: ignore[attr-defined]
    at = given(net.tasks)
    with pytest.raises(InputError) as caught:
        compile_ahead(net.stepper, Part(at.inputs, at.targets))
    assert str(caught.value) == (
        "$.train.compile: found true; the network does not compile here: RuntimeError: no such "
        "kernel; set it to false"
    )


def test_a_spec_of_before_has_its_hash(tmp_path: Path) -> None:
    """The field is content only where it is set."""
    write(tmp_path)
    import json

    old, off, on = (
        parse_spec(json.dumps(edited(edits))).content_hash()
        for edits in ({}, {"train.compile": False}, {"train.compile": True})
    )
    assert old == off != on
