"""The training step: its gradients compared with autograd's, and what it survives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from job import spec
from job.balance.base import Balancer
from job.distributed.device import unsupported_precision
from job.train.gradients.factored import Gradients, membership
from job.train.gradients.given import backward_from, gradients_from
from job.train.ledger import Ledger, NotFinite
from job.train.precision import LossScale
from job.train.step import Measured
from tests.support.foreign_nets import Foreign, given
from tests.support.nets import (
    BINARY,
    CLASSES,
    COUNTDOWN,
    DEAD,
    MIXED,
    POINTERS,
    TYPE,
    WIDE,
    Batch,
    Net,
    at_z,
    batch,
    gradients_at,
    kill,
    losses_of,
    task,
)

SETS = {
    "mixed": MIXED,
    "window tasks alone": [TYPE, POINTERS],
    "step tasks alone": [CLASSES, COUNTDOWN],
    "one window task": [POINTERS],
    "one step task": [COUNTDOWN],
    "many outputs": [WIDE, BINARY, TYPE],
}
KINDS = [
    {"kind": "fixed"},
    {"kind": "running_mean", "warmup": 2},
    {"kind": "running_mean_sqrt_n"},
    {"kind": "batch_mean"},
    {"kind": "uncertainty"},
    {"kind": "gradient_norm"},
]
TORCHJD = ["UPGrad", "MGDA", "CAGrad", "IMTLG", "AlignedMTL", "PCGrad", "DualProj"]


@pytest.fixture(params=list(SETS))
def tasks(request: pytest.FixtureRequest) -> list[spec.Task]:
    return SETS[request.param]


@pytest.fixture(params=KINDS, ids=lambda kind: str(kind["kind"]))
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    section: dict[str, Any] = request.param
    return section


def weights_for(tasks: list[spec.Task]) -> dict[str, Any]:
    return {"kind": "fixed", "weights": {t.name: 0.5 + k for k, t in enumerate(tasks)}}


def close(result: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(result, expected, rtol=2e-5, atol=1e-7)


# --- gradients --------------------------------------------------------------------------------


def test_every_gradient_is_that_of_the_weighted_sum(tasks: list[spec.Task]) -> None:
    """With fixed weights, every parameter's gradient is that of a plain weighted sum of losses
    through the whole network, dropout included, under the same generator state."""
    net, at = Net(tasks, weights_for(tasks)), batch(tasks)
    plain = copy.deepcopy(net.model)
    torch.manual_seed(3)
    weights = net.step(at).weights
    torch.manual_seed(3)
    (torch.stack(losses_of(net, plain(at.inputs), at)) * weights).sum().backward()
    for (name, mine), theirs in zip(net.model.named_parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None, name
        assert theirs.grad is not None, name
        assert theirs.grad.any(), name
        close(mine.grad, theirs.grad)


def test_every_update_is_that_of_the_weighted_sum() -> None:
    """Five steps with clip end at the parameters of five plain steps with clip."""
    net = Net(MIXED, weights_for(MIXED), clip=0.05)
    plain = copy.deepcopy(net.model)
    adamw = torch.optim.AdamW(plain.parameters(), 1e-2, weight_decay=0.0)
    for i in range(5):
        at = batch(MIXED, seed=i)
        torch.manual_seed(i)
        weights = net.step(at).weights
        torch.manual_seed(i)
        adamw.zero_grad()
        (torch.stack(losses_of(net, plain(at.inputs), at)) * weights).sum().backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.05)
        adamw.step()
    for mine, theirs in zip(net.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


class Calls(TorchDispatchMode):
    """Records which operations ran."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_gram_matrix_is_exact(tasks: list[spec.Task]) -> None:
    """The Gram matrix is that of K gradients taken one by one at z, dropout included."""
    net, at = Net(tasks), batch(tasks)
    torch.manual_seed(3)
    _, leaf, losses = at_z(net, at)
    flat = [torch.autograd.grad(x, leaf, retain_graph=True)[0].flatten() for x in losses]
    expected = torch.stack(flat) @ torch.stack(flat).T
    torch.manual_seed(3)
    measured = net.step(at)
    close(measured.losses, torch.stack(losses))
    torch.testing.assert_close(measured.gram, expected, rtol=1e-4, atol=1e-7)


def random_gradients(outputs: list[int], steps: int) -> Gradients:
    torch.manual_seed(1)
    step, window = sum(outputs), outputs.count(0)
    return Gradients(
        torch.randn(3, steps, step), torch.randn(3, step + window, 8), membership(outputs)
    )


@pytest.mark.parametrize(
    ("outputs", "steps", "dense"),
    [([1, 0, 2], 6, False), ([0, 0], 6, False), ([1, 12, 0], 6, True), ([9, 9], 1, True)],
)
def test_both_ways_to_the_gram_matrix_agree(outputs: list[int], steps: int, dense: bool) -> None:
    """Where tasks have many outputs per step the gradients are written down, elsewhere not; both
    give the inner products of `of_task`."""
    gradients = random_gradients(outputs, steps)
    with Calls() as calls:
        gram = gradients.gram()
    assert calls.names.count("aten.baddbmm.default") == (len(outputs) if dense else 0)
    each = torch.stack([gradients.of_task(k)[0].flatten() for k in range(len(outputs))])
    torch.testing.assert_close(gram, each @ each.T, rtol=1e-4, atol=1e-4)


def test_gradient_at_z_is_autograds(tasks: list[spec.Task]) -> None:
    """Each task's gradient at z, and their weighted sum, equal autograd's."""
    net, at = Net(tasks, dropout=0.0), batch(tasks)
    _, leaf, losses = at_z(net, at)
    gradients = gradients_at(net, leaf.detach(), at)
    weights = torch.rand(len(tasks))
    expected = [torch.autograd.grad(x, leaf, retain_graph=True)[0] for x in losses]
    for k, each in enumerate(expected):
        close(gradients.of_task(k)[0], each)
    total = sum(w * each for w, each in zip(weights, expected, strict=True))
    assert isinstance(total, Tensor)
    close(gradients.combined(weights)[0], total)


@pytest.mark.parametrize("scaled", [False, True])
def test_audit_measures_the_trunks_parameters(tasks: list[spec.Task], scaled: bool) -> None:
    """The audit is each loss's gradient norm on all of the trunk's parameters, whatever the loss
    scale, and changes nothing else in the step."""
    scale = LossScale(256.0) if scaled else None
    net, at = Net(tasks, loss_scale=scale), batch(tasks)
    other = copy.deepcopy(net.model)
    torch.manual_seed(3)
    losses = losses_of(net, other(at.inputs), at)
    expected = [
        torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(x, list(other.trunk.parameters()), retain_graph=True)
            ]
        ).norm()
        for x in losses
    ]
    unaudited = Net(tasks, loss_scale=LossScale(256.0) if scaled else None)
    torch.manual_seed(3)
    audit = net.step(at, audit=True).audit
    torch.manual_seed(3)
    assert unaudited.step(at).audit is None
    assert audit is not None
    torch.testing.assert_close(audit, torch.stack(expected), rtol=1e-4, atol=1e-7)
    for name, value in net.state().items():
        assert torch.equal(value, unaudited.state()[name]), name


def test_head_norms_are_of_the_unweighted_losses(tasks: list[spec.Task]) -> None:
    """The norm at a head is that of the loss's own gradient at its output weights."""
    net, at = Net(tasks, weights_for(tasks), dropout=0.0), batch(tasks)
    other = copy.deepcopy(net.model)
    expected = [
        torch.autograd.grad(loss, head.output.weight, retain_graph=True)[0].norm()
        for loss, head in zip(losses_of(net, other(at.inputs), at), other.heads, strict=True)
    ]
    close(net.step(at).head_norms, torch.stack(expected))


# --- balancers --------------------------------------------------------------------------------


class TrunkOnly(Balancer):
    """Weights 2, 3, … that leave the heads' own gradients alone."""

    weighs_heads = False

    def weigh(self, losses: Tensor, gram: Tensor, present: Tensor | None = None) -> Tensor:
        return torch.arange(2.0, 2 + self.tasks)


def test_weights_reach_heads_only_if_the_balancer_asks_for_it() -> None:
    """Without `weighs_heads` the heads' gradients are those of the plain sum of losses, and the
    trunk's those of the weighted sum."""
    net, at = Net(MIXED, own=TrunkOnly(len(MIXED)), dropout=0.0), batch(MIXED)
    other = copy.deepcopy(net.model)
    losses = torch.stack(losses_of(net, other(at.inputs), at))
    shared, own = list(other.trunk.parameters()), list(other.by_task.parameters())
    weighted = (losses * torch.arange(2.0, 2 + len(MIXED))).sum()
    expected = [
        *torch.autograd.grad(weighted, shared, retain_graph=True),
        *torch.autograd.grad(losses.sum(), own),
    ]
    net.step(at)
    for mine, theirs in zip(net.model.parameters(), expected, strict=True):
        assert mine.grad is not None
        close(mine.grad, theirs)


def falls(net: Net, at: Batch, steps: int = 30) -> Tensor:
    """Loss of each task after some steps over its loss before."""
    first = net.step(at).losses
    for _ in range(steps):
        last = net.step(at)
    assert not last.halted
    return last.losses / first


def test_a_dead_task_freezes_nobody(kind: dict[str, Any]) -> None:
    """With one task's gradient exactly 0 all others still learn."""
    tasks = [DEAD, *MIXED]
    net, at = Net(tasks, kind, dropout=0.0), batch(tasks)
    kill(net.model, 0)
    at.targets[0].fill_(-1.0)  # a dead task whose loss is not 0 either
    assert not net.step(at).gram[0].any()
    assert (falls(net, at)[1:] < 0.97).all()


@pytest.mark.parametrize("method", TORCHJD)
def test_a_dead_task_freezes_nobody_under_torchjd(method: str) -> None:
    """With one task's gradient exactly 0, torchjd's weightings still move trunk and heads."""
    pytest.importorskip("torchjd")
    tasks = [DEAD, *MIXED]
    section = {"kind": "torchjd", "method": method}
    net = Net(tasks, section | ({"options": {"c": 0.5}} if method == "CAGrad" else {}), dropout=0.0)
    at = batch(tasks)
    kill(net.model, 0)
    net.step(at)
    for name, parameter in net.model.trunk.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.norm() > 1e-4, name
    assert falls(net, at)[1:].mean() < 0.9


@pytest.mark.parametrize("constant", [0.0, 7.0])
def test_a_task_without_any_influence_is_survived(kind: dict[str, Any], constant: float) -> None:
    """A task whose loss is constant, 0 or not, neither stops the run nor the others."""
    tasks = [DEAD, *MIXED]
    net, at = Net(tasks, kind, dropout=0.0), batch(tasks)
    kill(net.model, 0)
    at.targets[0].fill_(constant)
    assert (falls(net, at)[1:] < 0.97).all()


def test_log_variances_learn_at_their_own_rate() -> None:
    """Under `uncertainty`, AdamW's first step moves each log variance by its own learning rate,
    and weight decay leaves them alone."""
    net, at = Net(MIXED, {"kind": "uncertainty", "lr": 0.25}, lr=1e-3), batch(MIXED)
    log_variance = net.stepper.balancer.get_parameter("log_variance")
    measured = net.step(at)
    toward = torch.where(measured.losses > 1, 0.25, -0.25)
    torch.testing.assert_close(log_variance.detach(), toward, rtol=1e-4, atol=0)
    before = measured.weights
    close(net.step(at).weights, before * torch.exp(-toward))


# --- what is not finite -----------------------------------------------------------------------


def loss_is_nan(net: Net, at: Batch) -> str:
    at.targets[1][0] = float("nan")
    return "the loss of task countdown is nan"


def loss_is_infinite(net: Net, at: Batch) -> str:
    at.targets[2].fill_(1e30)
    return "the loss of task pointers is inf"


def gradient_at_z_overflows(net: Net, at: Batch) -> str:
    # z is 0, so the loss stays as it is; its gradient is as large as the head's weights.
    for parameter in net.model.trunk.parameters():
        parameter.data.zero_()
    net.model.heads[1].output.weight.data.fill_(1e30)
    return "the gradient at the shared representation of task countdown is inf"


def head_gradient_is_nan(net: Net, at: Batch) -> str:
    net.model.heads[3].output.weight.register_hook(lambda g: g * float("nan"))
    return "the gradient at the head of task classes is nan"


def bias_gradient_is_infinite(net: Net, at: Batch) -> str:
    net.model.heads[3].output.bias.register_hook(lambda g: g * float("inf"))
    return "the gradient of a parameter is not finite"


def trunk_gradient_is_nan(net: Net, at: Batch) -> str:
    recurrent = dict(net.model.named_parameters())["trunk.encoder.lstm.weight_hh_l0"]
    recurrent.register_hook(lambda g: g * float("nan"))
    return "the gradient of a parameter is not finite"


def weight_is_infinite(net: Net, at: Batch) -> str:
    net.stepper.balancer.get_buffer("weights")[4] = float("inf")
    return "the weight of task binary is inf"


BROKEN = [
    loss_is_nan,
    loss_is_infinite,
    gradient_at_z_overflows,
    head_gradient_is_nan,
    bias_gradient_is_infinite,
    trunk_gradient_is_nan,
    weight_is_infinite,
]


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("breaking", BROKEN, ids=lambda f: f.__name__)
def test_nothing_is_updated_once_a_number_is_not_finite(
    breaking: Callable[[Net, Batch], str], clip: float | None
) -> None:
    """A loss, gradient or weight that is not finite leaves parameters and moments as they were,
    bit for bit, now and in later steps; the ledger names task and step."""
    net, ledger = Net(MIXED, clip=clip), Ledger([t.name for t in MIXED])
    for i in (1, 2):
        ledger.collect(i, 1, 1e-2, net.step(batch(MIXED, seed=i)))
    at = batch(MIXED, seed=3)
    message = breaking(net, at)
    before = net.state()
    for i in (3, 4, 5):
        ledger.collect(i, 1, 1e-2, net.step(at if i == 3 else batch(MIXED, seed=i)))
    for name, value in net.state().items():
        assert torch.equal(value, before[name]), name
    events = ledger.fetch()
    assert [next(events).step, next(events).step] == [1, 2]
    with pytest.raises(NotFinite) as caught:
        next(events)
    assert str(caught.value) == f"step 3: {message}; the update was not applied"
    assert caught.value.step == 3


def overflowing(kind: dict[str, Any]) -> Net:
    """A net whose gradients overflow until the loss scale has been halved some 20 times."""
    weights = {t.name: 1e6 for t in MIXED}
    return Net(MIXED, kind | {"weights": weights}, loss_scale=LossScale(2.0**127), dropout=0.0)


def until_applied(net: Net) -> list[Measured]:
    """Steps on one batch until one is applied, that one included."""
    taken = [net.step(batch(MIXED))]
    while taken[-1].skipped and len(taken) < 60:
        taken.append(net.step(batch(MIXED)))
    return taken


def test_an_overflow_skips_the_step_and_halves_the_scale(kind: dict[str, Any]) -> None:
    """A scaled gradient that overflows skips the step, halves the scale and halts nothing; a few
    steps later training goes on, with the gradients of a run without a scale."""
    net, start = overflowing(kind), 2.0**127
    before = {name: p.detach().clone() for name, p in net.stepper.named_parameters()}
    *skipped, applied = until_applied(net)
    assert len(skipped) > 5
    assert all(m.skipped == 1 and m.halted == 0 for m in skipped)
    assert net.stepper.loss_scale is not None
    assert net.stepper.loss_scale.scale == start / 2 ** len(skipped)
    assert applied.halted == 0
    plain = Net(MIXED, kind | {"weights": {t.name: 1e6 for t in MIXED}}, dropout=0.0)
    unscaled = plain.step(batch(MIXED))
    for field in ("losses", "weights", "gram"):
        mine, theirs = getattr(applied, field), getattr(unscaled, field)
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    for (name, mine), theirs in zip(
        net.stepper.named_parameters(), plain.stepper.parameters(), strict=True
    ):
        assert mine.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-2)
        assert not torch.equal(mine, before[name])


@pytest.mark.parametrize("where", ["at z", "in the trunk"])
def test_an_overflow_teaches_the_balancer_nothing(kind: dict[str, Any], where: str) -> None:
    """A skipped step leaves the balancer's state as it was, bit for bit, wherever the overflow
    was."""
    net = Net(MIXED, kind, loss_scale=LossScale(4.0), dropout=0.0)
    net.step(batch(MIXED))
    before = {n: v.clone() for n, v in net.stepper.balancer.state_dict().items()}
    at = batch(MIXED, seed=1)
    (gradient_at_z_overflows if where == "at z" else trunk_gradient_is_nan)(net, at)
    measured = net.step(at)
    assert measured.skipped == 1
    assert measured.halted == 0
    for name, value in net.stepper.balancer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_gradient_that_no_scale_cures_halts() -> None:
    """Halving ends at a scale below 1: then the gradient itself is at fault, and the run halts."""
    net = Net(MIXED, loss_scale=LossScale(4.0), dropout=0.0)
    trunk_gradient_is_nan(net, batch(MIXED))
    measured = [net.step(batch(MIXED)) for _ in range(5)]
    assert [int(m.skipped) for m in measured] == [1, 1, 1, 1, 1]
    assert [int(m.halted) for m in measured] == [0, 0, 0, 1, 1]  # at scales 4, 2, 1, 0.5, 0.25


def test_a_loss_that_is_not_finite_halts_under_a_loss_scale() -> None:
    """No loss scale cures a loss, so it halts at once."""
    net, at = Net(MIXED, loss_scale=LossScale(4.0)), batch(MIXED)
    loss_is_nan(net, at)
    assert net.step(at).halted == 1


def test_a_skipped_step_has_its_event() -> None:
    """A skipped step has an event that is marked, and is in no mean of the epoch."""
    net, ledger = overflowing({"kind": "fixed"}), Ledger([t.name for t in MIXED])
    taken = until_applied(net)
    for i, measured in enumerate(taken):
        ledger.collect(i + 1, 1, 1e-2, measured)
    events = list(ledger.fetch())
    assert [e.skipped for e in events] == [True] * (len(taken) - 1) + [False]
    assert ledger.count == 1
    logged = events[-1].tasks["type"].grad_norm
    assert ledger.means()["type"]["grad_norm"] == pytest.approx(logged)


# --- precision --------------------------------------------------------------------------------


@pytest.fixture
def no_onednn() -> Iterator[None]:
    """oneDNN has no fp16 LSTM on most CPUs; torch's own kernel has."""
    with torch.backends.mkldnn.flags(enabled=False):
        yield


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # the switch itself warns
@pytest.mark.usefixtures("no_onednn")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("tasks", [MIXED, [TYPE], [COUNTDOWN]], ids=["mixed", "window", "step"])
def test_low_precision_trains(precision: str, tasks: list[spec.Task]) -> None:
    """Under autocast every loss falls, and the first gradients are fp32's to its precision."""
    net, exact = (Net(tasks, dropout=0.0, precision=p) for p in (precision, "fp32"))
    at = batch(tasks)
    mine, theirs = net.step(at), exact.step(at)
    torch.testing.assert_close(mine.losses, theirs.losses, rtol=2e-2, atol=1e-2)
    torch.testing.assert_close(mine.gram, theirs.gram, rtol=5e-2, atol=1e-3)
    torch.testing.assert_close(mine.head_norms, theirs.head_norms, rtol=5e-2, atol=1e-2)
    for a, b in zip(net.model.parameters(), exact.model.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert (a.grad - b.grad).norm() <= 0.05 * b.grad.norm() + 1e-3
    assert (falls(net, at) < 0.97).all()


def test_bf16_trains_on_a_cpu_as_it_is() -> None:
    """bf16 needs no switch: it trains with torch's settings as they are, if the CPU has it."""
    if unsupported_precision(torch.device("cpu"), "bf16"):
        pytest.skip("this CPU has no LSTM in bf16")
    assert (falls(Net(MIXED, dropout=0.0, precision="bf16"), batch(MIXED)) < 0.97).all()


def test_loss_scale_doubles_after_2000_good_steps() -> None:
    """2 000 steps without overflow double the scale; an overflow halves it and begins anew."""
    scale, good, bad = LossScale(8.0), torch.tensor(False), torch.tensor(True)
    for _ in range(1999):
        scale.update(good)
    assert scale.scale == 8
    scale.update(good)
    assert scale.scale == 16
    scale.update(bad)
    assert scale.scale == 8
    assert scale.streak == 0
    for _ in range(2000):
        scale.update(good)
    assert scale.scale == 16


# --- no wait for the device -------------------------------------------------------------------


class NoSync(TorchFunctionMode):
    """Refuses what would make the host wait for the device."""

    REFUSED = frozenset(
        {
            *("item", "tolist", "cpu", "numpy", "__array__", "nonzero", "unique", "masked_select"),
            *("equal", "allclose", "is_nonzero", "__bool__", "__float__", "__int__", "__index__"),
            "__contains__",
        }
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert getattr(func, "__name__", "") not in self.REFUSED, func
        return func(*args, **(kwargs or {}))


def step_without_sync(net: Net, at: Batch, audit: bool) -> Measured:
    with NoSync(), Calls() as calls:
        measured = net.step(at, audit)
    assert len(calls.names) > 100
    waits = ("_local_scalar_dense", "aten.item", "is_nonzero", "nonzero", "aten.equal", "masked")
    assert not [name for name in calls.names if any(wait in name for wait in waits)]
    return measured


def test_the_watch_sees_a_sync() -> None:
    """Each way from a tensor to a Python number is refused by the watch that follows."""
    x = torch.ones(3)
    ways: list[Callable[[], object]] = [
        lambda: x[0].item(),
        lambda: x.tolist(),
        lambda: bool(x[0]),
        lambda: float(x[0]),
        lambda: x.cpu(),
        lambda: x.numpy(),
        lambda: 1 if x[0] > 0 else 2,
    ]
    for way in ways:
        with pytest.raises(AssertionError), NoSync():
            way()


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("audit", [False, True])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_never_waits_for_the_device(
    kind: dict[str, Any], scaled: bool, audit: bool, clip: float | None
) -> None:
    """No built-in balancer, loss scale, clip or audit reads a value on the host in a step."""
    net = Net(MIXED, kind, clip=clip, loss_scale=LossScale() if scaled else None)
    step_without_sync(net, batch(MIXED), audit)
    ledger = Ledger([t.name for t in MIXED])
    with NoSync():
        ledger.collect(1, 1, 1e-2, step_without_sync(net, batch(MIXED), audit))


@pytest.mark.parametrize("name", ["tuple", "PLE", "group", "whole", "leak"])
def test_no_network_waits_for_the_device(name: str) -> None:
    """Nor does a step of a network that we have not written, measured or not."""
    net = Foreign(name, {"kind": "gradient_norm"}, partial=True, every=2, clip=1.0)
    net.step(given(net.tasks, partial=True), 1)  # indices of tasks are made once
    for step in (2, 3):
        at = given(net.tasks, partial=True, seed=step)
        with NoSync(), Calls() as calls:
            net.step(at, step, audit=True)
        assert len(calls.names) > 50
        assert not [n for n in calls.names if "_local_scalar_dense" in n or "nonzero" in n]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_a_backward_with_a_given_gradient(dtype: torch.dtype) -> None:
    """Bit by bit as PyTorch's own, more than once through one graph, and with values that are not
    finite."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, generator=draw).to(dtype).requires_grad_()
    z = (x * 3).tanh()
    given = torch.randn(2, 3, 4, generator=draw).to(dtype)
    given[1, 0, :2] = torch.tensor([torch.nan, -torch.inf])
    for gradient in given:
        (expected,) = torch.autograd.grad(z, x, gradient, retain_graph=True)
        (found,) = gradients_from([(z, gradient)], [x])
        assert found is not None
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    backward_from([(z, gradient)])
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected, rtol=0, atol=0, equal_nan=True)


def test_a_task_named_like_a_method_is_fine() -> None:
    """Names such as `type`, `train` or `forward` are tasks like any other."""
    tasks = [task(name, "step", "mse") for name in ("type", "train", "forward", "parameters")]
    assert not Net(tasks).step(batch(tasks)).halted
