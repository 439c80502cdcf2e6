"""The ledger of networks that we have not written, compared with one autograd.grad per task."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from job.errors import Fault, InputError
from job.model.network import Inputs, Z
from job.train.alarms.of_training import ownership_changed
from job.train.gradients.ownership import ownership, unforeseen
from job.train.gradients.routes import DenseRoute, FactoredRoute, ParametersRoute
from job.train.precision import LossScale
from tests.support.foreign_nets import (
    CASES,
    WINDOWS,
    Disjoint,
    Foreign,
    Given,
    Group,
    Heads,
    TupleZ,
    given,
)
from tests.support.nets import MIXED, Net, batch

HAND = {"kind": "fixed", "weights": {"kind": 0.5, "both": 2.0, "class": 0.3, "pair": 1.7}}
UPGRAD = {"kind": "torchjd", "method": "UPGrad"}
GAP = 2e-6
"""Of a gradient's norm, for float32."""
GAPS = {"conv": 4e-5, "frozen": 4e-5}
"""With BatchNorm, which divides by small deviations."""


class Expected(NamedTuple):
    """What K separate calls of autograd give."""

    losses: Tensor
    gram: Tensor
    of_task: list[dict[str, Tensor]]
    """Each task's gradient at every parameter that its loss depends on, by the whole network."""
    below: set[str]
    """Parameters that z depends on."""


def expected(net: Foreign, at: Given, autocast: bool = False) -> Expected:
    """By autograd, in copies of the network, from the generator's state as it is."""
    state = torch.get_rng_state()
    model = copy.deepcopy(net.model).train()
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs = model(at.inputs)
    losses = net.task_losses(outputs, at)
    of_task = []
    for loss in losses:
        grads = torch.autograd.grad(
            loss, list(named.values()), retain_graph=True, allow_unused=True
        )
        of_task.append({n: g for n, g in zip(named, grads, strict=True) if g is not None})
    if CASES_AT[net.name] == "z":
        flat, below = at_z(net, at, state, autocast)
    else:
        times = [sum(n in each for each in of_task) for n in named]
        shared = [n for n, count in zip(named, times, strict=True) if count > 1]
        zero = {n: torch.zeros_like(named[n]) for n in shared}
        flat = [torch.cat([({**zero, **e})[n].flatten() for n in shared]) for e in of_task]
        below = set(shared)
    rows = torch.stack(flat).float()
    torch.set_rng_state(state)
    return Expected(torch.stack(losses).detach(), rows @ rows.T, of_task, below)


def at_z(net: Foreign, at: Given, state: Tensor, autocast: bool) -> tuple[list[Tensor], set[str]]:
    """Each task's gradient at a detached z, all parts end to end, and what z depends on."""
    torch.set_rng_state(state)
    model = copy.deepcopy(net.model).train()
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        z = model.represent(at.inputs)
        parts, structure = pytree.tree_flatten(z)
        learn = [p.requires_grad for p in parts]
        if not any(learn):
            learn = [p.is_floating_point() for p in parts]
        leaves = [p.detach().requires_grad_(yes) for p, yes in zip(parts, learn, strict=True)]
        cut = pytree.tree_unflatten(leaves, structure)
        outputs = [model.read(task, cut, at.inputs) for task in model.tasks]
    measured = [leaf for leaf in leaves if leaf.requires_grad]
    rows = []
    for loss in net.task_losses(outputs, at):
        grads = torch.autograd.grad(loss, measured, retain_graph=True, allow_unused=True)
        each = [
            torch.zeros_like(x) if g is None else g for g, x in zip(grads, measured, strict=True)
        ]
        rows.append(torch.cat([g.flatten().float() for g in each]))
    below: set[str] = set()
    for part in parts:
        if part.requires_grad:
            grads = torch.autograd.grad(
                part.sum(), list(named.values()), retain_graph=True, allow_unused=True
            )
            below |= {n for n, g in zip(named, grads, strict=True) if g is not None}
    return rows, below


CASES_AT = {name: case.at for name, case in CASES.items()}


def combined(net: Foreign, found: Expected, weights: Tensor) -> dict[str, Tensor]:
    """What every parameter's gradient must be under the weights."""
    grads = {}
    for name, p in net.model.named_parameters():
        mine = [(w, e[name]) for w, e in zip(weights, found.of_task, strict=True) if name in e]
        own = len(mine) == 1 and name not in found.below
        heads = net.stepper.balancer.weighs_heads
        each = [g if own and not heads else w * g for w, g in mine]
        grads[name] = torch.stack(each).sum(0) if each else torch.zeros_like(p)
    return grads


def close(found: Tensor, wanted: Tensor, gap: float, what: str) -> None:
    """Equal to within a share of the norm."""
    assert found.shape == wanted.shape, what
    assert (found - wanted).norm() <= gap * wanted.norm() + 1e-9, what


def assert_exact(net: Foreign, at: Given, name: str, gap: float | None = None, **how: Any) -> None:
    """A step's losses, Gram matrix, audit and gradients are those of autograd."""
    gap = gap or GAPS.get(name, GAP)
    torch.manual_seed(3)
    found = expected(net, at, **how)
    before = {n: p.detach().clone() for n, p in net.model.named_parameters()}
    measured = net.step(at, audit=True)
    assert not measured.skipped
    close(measured.losses, found.losses, gap, "losses")
    close(measured.gram, found.gram, 4 * gap, "Gram matrix")
    for n, grad in combined(net, found, measured.weights).items():
        close(net.grads()[n], grad, 5 * gap, n)
    assert measured.audit is not None
    audit = [
        torch.stack(
            [g.norm() for n, g in e.items() if n in found.below] or [torch.zeros(())]
        ).norm()
        for e in found.of_task
    ]
    close(measured.audit, torch.stack(audit), 5 * gap, "audit")
    moved = {n for n, p in net.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved >= {n for e in found.of_task for n, g in e.items() if g.any()} - {""}


@pytest.mark.parametrize(
    ("section", "partial"),
    [(HAND, False), (UPGRAD, True)],
    ids=["by hand, all labels", "UPGrad, half of the labels"],
)
@pytest.mark.parametrize("name", CASES)
def test_every_gradient_is_autograds(name: str, section: dict[str, Any], partial: bool) -> None:
    """Losses, Gram matrix, audit and every parameter's gradient equal those of one autograd.grad
    per task, with all labels or with masks and weights; the update reaches every parameter."""
    tasks = {t.name for t in CASES[name].tasks}
    if section is HAND:
        by_hand = {n: w for n, w in HAND["weights"].items() if n in tasks}  # type: ignore[attr-defined]
        section = {"kind": "fixed", "weights": by_hand}
    net = Foreign(name, section, partial)
    assert net.known.at == CASES[name].at
    assert_exact(net, given(net.tasks, partial=partial), name)


@pytest.mark.parametrize("name", ["tuple", "PLE", "group", "leak", "whole"])
def test_a_task_without_any_label(name: str) -> None:
    """Its gradient is exactly 0, the others' are as ever."""
    net = Foreign(name, {"kind": "gradient_norm"}, partial=True)
    at = given(net.tasks, partial=True)
    at.targets[1].fill_(torch.nan)
    torch.manual_seed(3)
    found = expected(net, at)
    measured = net.step(at)
    assert not measured.gram[1].any()
    assert not measured.gram[:, 1].any()
    close(measured.gram, found.gram, 4 * GAP, "Gram matrix")
    for n, grad in combined(net, found, measured.weights).items():
        close(net.grads()[n], grad, 5 * GAP, n)


@pytest.mark.parametrize("name", ["tuple", "transformer", "MMoE", "group", "conv"])
def test_bf16(name: str) -> None:
    """The Gram matrix of bf16 gradients is exact, as it is summed in float32; gradients agree with
    autograd's to what bf16 rounds."""
    net = Foreign(name, precision="bf16")
    at = given(net.tasks)
    torch.manual_seed(3)
    found = expected(net, at, autocast=True)
    measured = net.step(at)
    close(measured.gram, found.gram, 1e-5, "Gram matrix")
    for n, grad in combined(net, found, measured.weights).items():
        close(net.grads()[n], grad, 2e-2, n)


@pytest.mark.parametrize("name", ["tuple", "group", "leak"])
@pytest.mark.parametrize("every", [1, 2])
def test_loss_scale(name: str, every: int) -> None:
    """A loss scale changes no measurement and no update."""
    nets = [
        Foreign(name, UPGRAD, every=every, loss_scale=scale) for scale in (None, LossScale(1024.0))
    ]
    for step in (1, 2):
        plain, scaled = (net.step(given(net.tasks, seed=step), step, audit=True) for net in nets)
        for field in ("losses", "gram", "head_norms", "weights", "audit"):
            close(getattr(scaled, field), getattr(plain, field), 1e-4, field)
    for a, b in zip(nets[0].model.parameters(), nets[1].model.parameters(), strict=True):
        close(b, a, 1e-5, "parameters")


def test_our_own_network_by_the_dense_route() -> None:
    """The factors of linear heads and gradients written out are the same ledger."""
    nets = [Net(MIXED, {"kind": "gradient_norm"}, dropout=0.0) for _ in range(2)]
    passes, at = nets[1].stepper.passes, batch(MIXED)
    assert isinstance(passes.route, FactoredRoute)
    passes.route = DenseRoute(nets[1].model, nets[1].stepper.known, passes.autocast)
    factored, dense = (net.step(at, audit=True) for net in nets)
    for field in ("losses", "gram", "head_norms", "weights", "audit"):
        close(getattr(dense, field), getattr(factored, field), 1e-5, field)
    for a, b in zip(nets[0].model.parameters(), nets[1].model.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        close(b.grad, a.grad, 1e-5, "gradient")


def test_what_is_known_of_our_own_network() -> None:
    """Trunk, heads and output weights are those that the network was built from."""
    net = Net(MIXED)
    passes, model = net.stepper.passes, net.model
    assert [id(p) for p in passes.below] == [id(p) for p in model.trunk.parameters()]
    for own, head, weight in zip(passes.of_heads, model.heads, passes.output_weights, strict=True):
        assert [id(p) for p in own] == [id(p) for p in head.parameters()]
        assert weight is head.output.weight
    assert not passes.of_several


# --- what is known of a network ---------------------------------------------------------------


def test_ownership_of_a_shared_layer() -> None:
    """A layer that two heads share is neither the trunk's nor one task's."""
    known = Foreign("group").known
    assert known.trunk == ["trunk.weight", "trunk.bias"]
    assert known.of_several == ["group.weight", "group.bias"]
    assert [names[0] for names in known.of_tasks] == [
        f"heads.to_{t.name}.0.weight" for t in WINDOWS
    ]


def test_readers_of_parts() -> None:
    """Each stream of PLE's z has one reader, the shared one has all."""
    known = Foreign("PLE").known
    assert known.readers == {0: [0], 1: [1], 2: [2], 3: [0, 1, 2]}
    assert Foreign("dict").known.readers == {0: [0, 1, 2], 1: [0, 1, 2]}  # no mask, no constant


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (
            "leak",
            "tasks reach trunk.weight, trunk.bias through the shared representation and past",
        ),
        ("disjoint", "kind and level read no common part of the shared representation, but"),
        ("whole", "the network has no shared representation: it defines forward alone"),
        ("frozen group", "no parameter of the trunk trains, but heads share some"),
    ],
)
def test_why_there_is_no_ledger_at_z(name: str, why: str) -> None:
    """The reason is a sentence that names what was found."""
    known = Foreign(name).known
    assert known.obstacle is not None
    assert known.obstacle.startswith(why)


def test_tasks_that_cannot_conflict() -> None:
    """A frozen trunk, or networks side by side; a trunk that trains makes conflict possible."""
    assert Foreign("frozen").known.harmony == "no parameter of the trunk trains"
    assert Foreign("apart").known.harmony == "no two tasks share a parameter that trains"
    assert Foreign("tuple").known.harmony is None


def test_looking_leaves_no_trace() -> None:
    """Generator, buffers, modes and gradients are as before."""
    torch.manual_seed(0)
    model = CASES["conv"].build(WINDOWS)
    trunk = list(model.get_submodule("trunk").children())
    trunk[1].eval()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    ownership(model, given(WINDOWS).inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in trunk] == [True, False, True, True]
    assert all(torch.equal(model.state_dict()[n], v) for n, v in before.items())
    assert all(p.grad is None for p in model.parameters())


class Idle(TupleZ):
    """Has a layer that nothing uses."""

    def __init__(self, tasks: Any) -> None:
        super().__init__(tasks)
        self.idle = torch.nn.Linear(2, 2, bias=False)


def test_a_parameter_that_nothing_reaches() -> None:
    """A fault names it, before the first step."""
    with pytest.raises(InputError) as caught:
        ownership(Idle(WINDOWS), given(WINDOWS).inputs)
    assert str(caught.value) == (
        "$.model: found the parameter idle.weight; no task's outputs depend on it, so nothing "
        "would train it; use it, remove it, or freeze it (requires_grad = False)"
    )
    model = Idle(WINDOWS)
    model.idle.requires_grad_(False)
    ownership(model, given(WINDOWS).inputs)


class InPlace(Group):
    """A head changes z."""

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        assert isinstance(z, Tensor)
        return super().read(task, z.relu_() if task == "level" else z, inputs)


class MaskInPlace(TupleZ):
    """A head changes a part of z that has no gradient."""

    def represent(self, inputs: Inputs) -> Z:
        return *super().represent(inputs), inputs["x"] > 0

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        wide, side, mask = z
        assert isinstance(mask, Tensor)
        mask[:, 0] = True
        return super().read(task, (wide, side), inputs)  # type: ignore[arg-type]


@pytest.mark.parametrize(("build", "task"), [(InPlace, "level"), (MaskInPlace, "kind")])
def test_a_head_that_changes_z_in_place(build: type[Heads], task: str) -> None:
    """The fault names its task; a plain sum of losses would train on with other values of z."""
    with pytest.raises(InputError, match=f"the head of the task {task} changes z; .* in place"):
        ownership(build(WINDOWS), given(WINDOWS).inputs)


class Blamed(InPlace):
    """Tells where its own errors are."""

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        try:
            return super().read(task, z, inputs)
        except RuntimeError as error:
            raise InputError([Fault("net.py:7", str(error), "", "")]) from error


def test_the_line_that_changes_z_in_place() -> None:
    """A line that the network names stays named, but with the rule that it breaks."""
    with pytest.raises(
        InputError, match=r"^net\.py:7: found the head of the task level changes z; "
    ):
        ownership(Blamed(WINDOWS), given(WINDOWS).inputs)


class NoTensor(Group):
    """Returns something that is no z."""

    def represent(self, inputs: Inputs) -> Z:
        return {"z": super().represent(inputs), "width": 6}  # type: ignore[dict-item]


def test_a_z_that_is_not_of_tensors() -> None:
    """One line says what a z is."""
    with pytest.raises(
        InputError, match="represent returns dict; z is a tensor, or a tuple or dict"
    ):
        ownership(NoTensor(WINDOWS), given(WINDOWS).inputs)


class Sometimes(Disjoint):
    """The last task also reads the first one's part, but only in some batches."""

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        assert isinstance(z, dict)
        if task == self.tasks[-1] and inputs["age"][0, 0] > 0:
            z = z | {task: z[task] + z[self.tasks[0]]}
        return super().read(task, z, inputs)

    def represent(self, inputs: Inputs) -> Z:
        z = super().represent(inputs)
        assert isinstance(z, dict)
        return {t: part + z[self.tasks[0]] for t, part in z.items()} | {"all": z["kind"]}


def test_a_task_that_reads_more_than_it_did_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient at that part is in the Gram matrix all the same."""
    monkeypatch.setitem(CASES, "sometimes", CASES["disjoint"]._replace(build=Sometimes))
    monkeypatch.setitem(CASES_AT, "sometimes", "z")
    net = Foreign("sometimes")
    passes = net.stepper.passes
    assert isinstance(passes.route, ParametersRoute)
    passes.route = DenseRoute(net.model, net.known, passes.autocast)
    for age in (-1.0, 1.0):
        at = given(net.tasks)
        at.inputs["age"][0, 0] = age
        found = expected(net, at)
        close(net.step(at).gram, found.gram, 4 * GAP, "Gram matrix")
        assert found.gram[0, 2].bool() == (age > 0)


class Routed(Group):
    """The last task too goes through the shared layer, but only with some data."""

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        assert isinstance(z, Tensor)
        routed = task == self.tasks[-1] and inputs["age"][0, 0] > 0
        return super().read(task, self.group(z) if routed else z, inputs)


def test_data_that_decide_what_a_task_depends_on() -> None:
    """The tasks that depend on more than was known, with the parameters; less is no news."""
    model, at = Routed(WINDOWS), given(WINDOWS)
    at.inputs["age"][0, 0] = -1.0
    known = ownership(model, at.inputs)
    assert unforeseen(known, model, at.inputs) == {}
    at.inputs["age"][0, 0] = 1.0
    assert unforeseen(known, model, at.inputs) == {"both": ["group.weight", "group.bias"]}
    assert unforeseen(ownership(model, at.inputs), model, given(WINDOWS, seed=1).inputs) == {}
    alarm = ownership_changed("both", ["group.weight", "group.bias"], 7)
    assert "depend on group.weight and 1 more parameters" in alarm.message


# --- measurements every n steps ----------------------------------------------------------------


@pytest.mark.parametrize("section", [HAND, UPGRAD, {"kind": "running_mean", "warmup": 2}])
@pytest.mark.parametrize("name", ["tuple", "group", "whole"])
def test_steps_between_measurements(name: str, section: dict[str, Any]) -> None:
    """They are those of a plain weighted sum. Weights from gradients are those of the last
    measurement, as is what is told of the gradients; weights from losses are new at every step."""
    if section is HAND:
        section = {"kind": "fixed", "weights": {"kind": 0.5, "both": 2.0}}
    net, every = Foreign(name, section, every=3), Foreign(name, section, every=1)
    first = net.step(given(net.tasks, seed=1), 1)
    assert first.measured_at == 1
    every.step(given(net.tasks, seed=1), 1)
    for step in (2, 3):
        at = given(net.tasks, seed=step)
        found = expected(net, at)
        measured = net.step(at, step, audit=True)
        assert measured.measured_at == 1
        assert torch.equal(measured.gram, first.gram)
        assert torch.equal(measured.head_norms, first.head_norms)
        if section is UPGRAD:
            assert torch.equal(measured.weights, first.weights)
        else:
            torch.testing.assert_close(measured.weights, every.step(at, step).weights)
        for n, grad in combined(net, found, measured.weights).items():
            close(net.grads()[n], grad, 5 * GAP, n)
        assert measured.audit is not None
        audit = [
            torch.cat([e[n].flatten() for n in found.below if n in e]).norm() for e in found.of_task
        ]
        close(measured.audit, torch.stack(audit), 5 * GAP, "audit")
    assert net.step(given(net.tasks, seed=4), 4).measured_at == 4


def test_an_absent_task_keeps_its_held_weight() -> None:
    """A measurement without a label of the task says nothing about its weight."""
    net = Foreign("tuple", UPGRAD, partial=True, every=2)
    held = net.step(given(net.tasks, seed=1, partial=True), 1).weights
    net.step(given(net.tasks, seed=2, partial=True), 2)
    at = given(net.tasks, seed=3, partial=True)
    at.targets[1].fill_(torch.nan)
    third = net.step(at, 3).weights
    after = net.step(given(net.tasks, seed=4, partial=True), 4).weights
    assert after[1] == held[1]
    assert torch.equal(after[[0, 2]], third[[0, 2]])


@pytest.mark.parametrize("name", ["tuple", "whole"])
def test_held_weights_survive_a_resume(name: str) -> None:
    """A stepper that gets another's state goes on bit for bit, between two measurements."""
    nets = [Foreign(name, UPGRAD, every=3) for _ in range(2)]
    for step in (1, 2):
        nets[0].step(given(WINDOWS, seed=step), step)
    nets[1].stepper.load_state_dict(copy.deepcopy(nets[0].stepper.state_dict()))
    nets[1].optimizer.load_state_dict(copy.deepcopy(nets[0].optimizer.state_dict()))
    for step in (3, 4, 5):
        one, other = (net.step(given(WINDOWS, seed=step), step) for net in nets)
        for a, b in zip(one, other, strict=True):
            assert (a is None) == (b is None)
            assert a is None or b is None or torch.equal(a, b)
    for a, b in zip(nets[0].model.parameters(), nets[1].model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_state_of_a_network_with_a_ledger_at_every_step_is_as_before() -> None:
    """Nothing is held then, so older checkpoints still fit."""
    assert not [n for n in Net(MIXED).stepper.state_dict() if "held" in n or "measured_at" in n]
    assert "held_weights" in Foreign("whole").stepper.state_dict()
