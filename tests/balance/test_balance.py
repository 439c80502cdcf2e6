"""Balancers: properties that all of them share, then closed forms of each.

The shared properties run over every member of the spec's Balance union and every method of the
installed torchjd, so a newcomer is held to them with no test added.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, get_args

import pytest
import safetensors.torch
import torch
from torch import Tensor

from job import spec
from job.balance.base import Balancer
from job.balance.build import build_balancer
from job.balance.catalog import UNFIT, methods
from job.balance.torchjd import STATE
from job.errors import InputError

TASKS = ["type", "pointers", "binary", "countdown"]
SIZES = [1, 2, 105, 105]
K = len(TASKS)

REQUIRED: dict[str, dict[str, Any]] = {
    "CAGrad": {"c": 0.5},
    "COSMOS": {"lambda_": 2.0},
    "FairGrad": {"alpha": 1.0},
    "Krum": {"n_byzantine": 0},
    "PBI": {"theta": 5.0},
    "STCH": {"mu": 0.5},
}
"""Options that torchjd gives no default; Krum with more would meet ties in 4 tasks."""
ORDERED = {
    "GradVac": "visits the other tasks in a random order",
    "PCGrad": "visits the other tasks in a random order",
    "Random": "draws its weights",
    "PCD": "takes the first task as the primary one",
}
"""Methods whose weights depend on the order of the tasks, and why."""


def torchjd(method: str, **options: Any) -> spec.TorchJD:
    return spec.TorchJD(kind="torchjd", method=method, options=REQUIRED.get(method, {}) | options)


def sections() -> dict[str, spec.Balance]:
    """One spec of each balancer, by name; hand weights differ where there are any."""
    by_name: dict[str, spec.Balance] = {}
    for member in get_args(get_args(spec.Balance)[0]):
        kind = get_args(member.model_fields["kind"].annotation)[0]
        if member is spec.TorchJD:
            names = methods() if find_spec("torchjd") else []
            by_name |= {f"torchjd:{name}": torchjd(name) for name in names}
        elif issubclass(member, spec.Weighted):
            by_name[kind] = member(kind=kind, weights={"pointers": 2.0, "countdown": 0.5})
        else:
            by_name[kind] = member(kind=kind)
    return by_name


SECTIONS = sections()


@pytest.fixture(params=SECTIONS)
def section(request: pytest.FixtureRequest) -> spec.Balance:
    return SECTIONS[request.param]


def build(section: spec.Balance, tasks: list[str] = TASKS, sizes: list[int] = SIZES) -> Balancer:
    try:
        return build_balancer(section, tasks, sizes)
    except InputError as error:
        if "requires" in error.faults[0].rule:
            pytest.skip(error.faults[0].rule)
        raise


def walk(steps: int, seed: int = 0, tasks: int = K) -> Iterator[tuple[Tensor, Tensor]]:
    """Losses and Gram matrices of conflicting random gradients."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        jacobian = torch.randn(tasks, 6, generator=draw)
        yield torch.rand(tasks, generator=draw) + 0.1, jacobian @ jacobian.T


def step(balancer: Balancer, losses: Tensor, gram: Tensor) -> Tensor:
    """One step of the balancer and of its parameters, by plain gradient descent; an epoch each."""
    weights: Tensor = balancer(losses, gram)
    objective = balancer.objective(losses)
    if objective is not None:
        objective.backward()
        for parameter in balancer.parameters():
            assert parameter.grad is not None
            parameter.data -= 0.1 * parameter.grad
            parameter.grad = None
    if balancer.observes:
        balancer.observe(losses**1.1)
    balancer.end_epoch()
    return weights


def norms(gram: Tensor, weights: Tensor) -> Tensor:
    return gram.diagonal().sqrt() * weights


# --- what all share ---------------------------------------------------------------------------


def test_weights_are_finite_detached_float32(section: spec.Balance) -> None:
    """Weights are [K] float32 without a graph, finite, and not all zero."""
    balancer = build(section)
    for losses, gram in walk(10):
        weights = step(balancer, losses, gram)
        assert weights.shape == (K,)
        assert weights.dtype == torch.float32
        assert not weights.requires_grad
        assert weights.isfinite().all()
        assert weights.any()


def test_no_weight_is_negative_unless_said(section: spec.Balance) -> None:
    """Only balancers that say `signed` give negative weights, and those do."""
    balancer = build(section)
    lowest = min(step(balancer, *stats).min().item() for stats in walk(30))
    assert (lowest < 0) == balancer.signed


def test_order_of_tasks_is_free(section: spec.Balance) -> None:
    """Permuted tasks get permuted weights."""
    if isinstance(section, spec.TorchJD) and section.method in ORDERED:
        pytest.skip(ORDERED[section.method])
    order = [2, 0, 3, 1]
    straight = build(section)
    permuted = build(section, [TASKS[k] for k in order], [SIZES[k] for k in order])
    for losses, gram in walk(8):
        expected = step(straight, losses, gram)[order]
        weights_now = step(permuted, losses[order], gram[order][:, order])
        torch.testing.assert_close(weights_now, expected, rtol=2e-3, atol=1e-3)


def test_a_resumed_run_repeats_bit_for_bit(section: spec.Balance) -> None:
    """State saved mid-run as safetensors continues another balancer exactly."""
    torch.manual_seed(7)
    first = build(section)
    stats = list(walk(10))
    for losses, gram in stats[:5]:
        step(first, losses, gram)
    saved = safetensors.torch.save(first.state_dict())
    expected = [step(first, *s) for s in stats[5:]]

    torch.manual_seed(8)
    second = build(section)
    for losses, gram in walk(3, seed=1):
        step(second, losses, gram)
    second.load_state_dict(safetensors.torch.load(saved))
    for s, weights in zip(stats[5:], expected, strict=True):
        assert torch.equal(step(second, *s), weights)
    assert second.state_dict().keys() == first.state_dict().keys()
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


def test_copied_buffers_take_a_step_back(section: spec.Balance) -> None:
    """Buffers written back in place undo a step: what the training step does on an overflow."""
    balancer = build(section)
    for losses, gram in walk(3):
        balancer(losses, gram)
    before = [b.clone() for b in balancer.buffers()]
    (losses, gram), (other_losses, other_gram) = walk(2, seed=1)
    expected = balancer(losses, gram)
    balancer(other_losses, other_gram)
    for buffer, old in zip(balancer.buffers(), before, strict=True):
        buffer.copy_(old)
    assert torch.equal(balancer(losses, gram), expected)


def test_weights_belong_to_the_caller(section: spec.Balance) -> None:
    """Overwriting the weights that a step returned changes nothing in the next."""
    balancer, other = build(section), build(section)
    for losses, gram in walk(3):
        weights = balancer(losses, gram)
        assert torch.equal(weights, other(losses, gram))
        weights.zero_()


def test_objective_reaches_every_parameter(section: spec.Balance) -> None:
    """A balancer has an objective if it has parameters, and its gradient reaches all of them."""
    balancer = build(section)
    (losses, gram) = next(walk(1))
    balancer(losses, gram)
    objective = balancer.objective(losses)
    parameters = list(balancer.parameters())
    assert (objective is None) == (not parameters)
    if objective is not None:
        gradients = torch.autograd.grad(objective, parameters)
        assert all(g.count_nonzero() == g.numel() for g in gradients)


def test_wrong_shapes_are_refused(section: spec.Balance) -> None:
    """Losses or a Gram matrix of another number of tasks raise ValueError."""
    balancer = build(section)
    with pytest.raises(ValueError, match="balancer of 4 tasks"):
        balancer(torch.ones(3), torch.eye(K))
    with pytest.raises(ValueError, match="balancer of 4 tasks"):
        balancer(torch.ones(K), torch.eye(5))
    with pytest.raises(ValueError, match="4 tasks but 3 sizes"):
        build_balancer(section, TASKS, SIZES[:3])


def test_torch_generator_is_left_alone(section: spec.Balance) -> None:
    """Neither making nor running a balancer moves the generator that dropout draws from."""
    before = torch.get_rng_state()
    balancer = build(section)
    for losses, gram in walk(2):
        balancer(losses, gram)
    assert torch.equal(torch.get_rng_state(), before)


def test_zero_loss_leaves_weight_to_the_others(section: spec.Balance) -> None:
    """A task at loss 0 makes no weight infinite, and each of the others still gets some."""
    balancer = build(section)
    given = torch.zeros(K)
    for losses, gram in walk(30):
        losses[0] = 0
        weights = step(balancer, losses, gram)
        assert weights.isfinite().all()
        given += weights.abs()
    assert given[1:].all()


def test_zero_gradient_freezes_nobody(section: spec.Balance) -> None:
    """With one task's gradient at 0 the weights stay finite and the others still move the trunk."""
    balancer = build(section)
    moved = []
    for losses, gram in walk(10):
        gram[0] = gram[:, 0] = 0
        weights = step(balancer, losses, gram)
        assert weights.isfinite().all()
        moved.append((weights @ gram @ weights).sqrt())
    assert torch.stack(moved).mean() > 0.05


def test_no_gradient_at_all_is_survived(section: spec.Balance) -> None:
    """A Gram matrix of zeros gives finite weights, and so does the step after it."""
    balancer = build(section)
    losses, gram = next(walk(1))
    assert balancer(losses, torch.zeros(K, K)).isfinite().all()
    assert balancer(losses, gram).isfinite().all()


@pytest.mark.parametrize("ratio", [1e2, 1e4, 1e8])
def test_huge_ratios_are_survived(section: spec.Balance, ratio: float) -> None:
    """Gradient norms and losses 1e8 apart give finite weights, not all zero."""
    balancer = build(section)
    scale = torch.tensor([ratio, 1.0, 1.0, 1 / ratio])
    for losses, gram in walk(3):
        weights = step(balancer, losses * scale, gram * torch.outer(scale, scale))
        assert weights.isfinite().all()
        assert weights.any()


def test_common_scale_of_gradients_changes_no_weight(section: spec.Balance) -> None:
    """All gradients times 1e-4 (a mean over more elements) leave every weight."""
    large, small = build(section), build(section)
    for losses, gram in walk(4):
        expected = step(large, losses, gram)
        torch.testing.assert_close(step(small, losses, gram * 1e-8), expected, rtol=1e-2, atol=1e-3)


# --- batches without labels of a task -----------------------------------------------------------


def absent(gram: Tensor, k: int) -> Tensor:
    """The Gram matrix with no gradient of task k."""
    gram = gram.clone()
    gram[k] = gram[:, k] = 0
    return gram


def of_task(balancer: Balancer, k: int) -> dict[str, Tensor]:
    """What the balancer's state says of task k."""
    rows = {n: b[..., k] for n, b in balancer.state_dict().items() if b.shape[-1:] == (K,)}
    if "state_sq_norm_ema" in rows:  # PCD reads it corrected by its steps
        seen = 1 - 0.999 ** balancer.get_buffer("state_n_steps").double()
        rows = {n: row / seen for n, row in rows.items()}
    return {n: row.clone() for n, row in rows.items()}


def watched(balancer: Balancer, losses: Tensor, gram: Tensor, present: Tensor) -> Tensor:
    """Weights of a step in which some tasks are absent, without the optimizer's part."""
    weights: Tensor = balancer(losses, gram, present)
    if balancer.observes:
        balancer.observe(losses**1.1, present)
    return weights


def test_a_batch_without_any_label_changes_no_state(section: spec.Balance) -> None:
    """Bit for bit, and the weights are finite."""
    balancer = build(section)
    for stats in walk(3):
        step(balancer, *stats)
    before = {n: b.clone() for n, b in balancer.state_dict().items()}
    nobody = torch.zeros(K, dtype=torch.bool)
    weights = watched(balancer, torch.zeros(K), torch.zeros(K, K), nobody)
    assert weights.isfinite().all()
    for n, b in balancer.state_dict().items():
        assert torch.equal(b, before[n]), n


@pytest.mark.parametrize("k", range(K))
def test_an_absent_task_is_left_as_it_was(section: spec.Balance, k: int) -> None:
    """Of a task without labels the state stays; what its loss is said to be changes nothing; the
    others still move the trunk, unless the method's primary task is the absent one."""
    balancer, other = build(section), build(section)
    rounding = 1e-7 if "state_sq_norm_ema" in balancer.state_dict() else 0.0  # PCD gets float32
    present = torch.arange(K) != k
    for i, (losses, gram) in enumerate(walk(6)):
        gone = absent(gram, k)
        if i % 2:
            before = of_task(balancer, k)
            weights = watched(balancer, losses * present, gone, present)
            lied = watched(other, torch.where(present, losses, 7.0), gone, present)
            assert weights.isfinite().all()
            assert torch.equal(weights[present], lied[present])
            for n, row in of_task(balancer, k).items():
                torch.testing.assert_close(row, before[n], rtol=rounding, atol=0)
            if not (isinstance(section, spec.TorchJD) and section.method == "PCD" and k == 0):
                assert (weights @ gone @ weights).sqrt() > 0
        else:
            watched(balancer, losses, gram, torch.ones(K, dtype=torch.bool))
            watched(other, losses, gram, torch.ones(K, dtype=torch.bool))
    for n, b in balancer.state_dict().items():
        assert torch.equal(b, other.state_dict()[n]), n


def test_a_task_may_come_late(section: spec.Balance) -> None:
    """Absent from the first steps on, a task then gets a finite weight, and it counts; the same for
    a whole epoch without it."""
    balancer = build(section)
    present = torch.tensor([True, True, True, False])
    for losses, gram in walk(4):
        weights = watched(balancer, losses * present, absent(gram, 3), present)
        assert weights.isfinite().all()
        balancer.end_epoch()
    given = torch.zeros(K)
    for losses, gram in walk(30, seed=1):
        weights = watched(balancer, losses, gram, torch.ones(K, dtype=torch.bool))
        balancer.end_epoch()
        assert weights.isfinite().all()
        given += weights.abs()
    assert given[3] > 0
    assert given[3] < 1e4 * given[:3].max()


# Each step is as if the absent task did not exist: methods whose state is of each task alone.
SEPARATE = {"running_mean", "running_mean_sqrt_n", "gradient_norm"}


@pytest.mark.parametrize("kind", sorted(SEPARATE))
def test_batches_without_a_task_do_not_count_for_it(kind: str) -> None:
    """After batches with and without labels, its weight is that of the batches with labels."""
    sparse, dense = build(SECTIONS[kind]), build(SECTIONS[kind])
    present = torch.tensor([True, False, True, True])
    for i, (losses, gram) in enumerate(walk(8)):
        if i % 2:
            sparse(losses * present, absent(gram, 1), present)
        else:
            mine = sparse(losses, gram, torch.ones(K, dtype=torch.bool))
            theirs = dense(losses, gram)
            if kind != "gradient_norm":  # whose weights are relative to all tasks
                assert mine[1] == theirs[1]
    for name in ("mean", "norm"):
        if name in dict(dense.named_buffers()):
            assert sparse.get_buffer(name)[1] == dense.get_buffer(name)[1]


def test_all_present_is_as_if_nothing_were_said(section: spec.Balance) -> None:
    """Told that all tasks are there, a balancer gives the weights that it gives otherwise."""
    told, plain = build(section), build(section)
    for losses, gram in walk(6):
        weights = told(losses, gram, torch.ones(K, dtype=torch.bool))
        torch.testing.assert_close(weights, plain(losses, gram), rtol=1e-5, atol=1e-6)


def test_an_older_state_with_one_count_of_steps_is_read() -> None:
    """A count that is now one for each task stands for all of them."""
    section = SECTIONS["running_mean"]
    first, second = build(section), build(section)
    stats = list(walk(3))
    for each in stats[:2]:
        step(first, *each)
    old = first.state_dict() | {"steps": torch.tensor(2)}
    second.load_state_dict(old)
    assert torch.equal(step(first, *stats[2]), step(second, *stats[2]))


# --- closed forms -----------------------------------------------------------------------------


def run(section: spec.Balance, losses: list[float]) -> Tensor:
    """Weights [steps, 2] for two tasks, the first with these losses, the second always at 1."""
    balancer = build_balancer(section, ["a", "b"], [105, 2])
    return torch.stack([balancer(torch.tensor([x, 1.0]), torch.eye(2)) for x in losses])


def test_fixed_returns_the_weights() -> None:
    """Fixed weights are those of the spec, 1 where there is none."""
    weights = run(spec.Fixed(weights={"b": 3.0}), [5.0])
    assert weights.tolist() == [[1.0, 3.0]]


def test_running_mean_warms_up_then_forgets() -> None:
    """The mean is the plain one, with the step's own loss, for `warmup` steps; then exponential."""
    section = spec.RunningMean(kind="running_mean", momentum=0.5, warmup=3, weights={"a": 12.0})
    means = 12 / run(section, [1.0, 3.0, 8.0, 6.0])[:, 0]
    torch.testing.assert_close(means, torch.tensor([1.0, 2.0, 4.0, 5.0]))


def test_running_mean_without_warmup_starts_at_the_first_loss() -> None:
    """With no warm-up the first mean is the first loss, not a share of it."""
    section = spec.RunningMean(kind="running_mean", momentum=0.75, warmup=0)
    torch.testing.assert_close(run(section, [4.0, 8.0])[:, 0], torch.tensor([1 / 4, 1 / 5]))


@pytest.mark.parametrize("kind", ["running_mean", "running_mean_sqrt_n", "batch_mean"])
def test_loss_times_1000_is_weight_over_1000(kind: str) -> None:
    """Balancers that divide by the loss undo its scale."""
    section = SECTIONS[kind]
    losses = [1.0, 2.0, 0.5] * 6
    ratio = run(section, losses)[:, 0] / run(section, [1000 * x for x in losses])[:, 0]
    torch.testing.assert_close(ratio, torch.full((18,), 1000.0))


def test_sqrt_n_multiplies_by_the_root_of_the_outputs() -> None:
    """running_mean_sqrt_n is running_mean times √105 and √2."""
    plain = run(spec.RunningMean(kind="running_mean"), [1.0, 2.0, 3.0])
    grown = run(spec.RunningMeanSqrtN(kind="running_mean_sqrt_n"), [1.0, 2.0, 3.0])
    torch.testing.assert_close(grown / plain, torch.tensor([[105**0.5, 2**0.5]] * 3))


def test_batch_mean_is_the_gradient_of_the_log() -> None:
    """Σ w L under batch_mean's weights has the gradient of Σ log L."""
    x = torch.tensor([0.3, 2.0], requires_grad=True)
    losses = x**2 + 1
    balancer = build_balancer(spec.BatchMean(kind="batch_mean"), ["a", "b"], [1, 1])
    weighted = (balancer(losses.detach(), torch.eye(2)) * losses).sum()
    expected = torch.autograd.grad((x**2 + 1).log().sum(), x)
    torch.testing.assert_close(torch.autograd.grad(weighted, x), expected)


def test_uncertainty_rests_at_weights_over_twice_the_loss() -> None:
    """Trained by gradient descent, Kendall's weights come to rest at w/(2L), after Kendall at ½."""
    balancer = build_balancer(
        spec.Uncertainty(kind="uncertainty", weights={"c": 3.0}), ["a", "b", "c"], [1, 1, 1]
    )
    losses = torch.tensor([0.2, 1.0, 4.0])
    start = step(balancer, losses, torch.eye(3))
    for _ in range(2000):
        rest = step(balancer, losses, torch.eye(3))
    torch.testing.assert_close(start, torch.tensor([0.5, 0.5, 1.5]))
    torch.testing.assert_close(rest, torch.tensor([2.5, 0.5, 0.375]), rtol=1e-3, atol=0)


def test_uncertainty_leaves_the_saddle_of_two_parabolas() -> None:
    """On (x ± 1)² + ½ descent ends at x = √½ with weights (.1464, .8536), not at the middle."""
    balancer = build_balancer(spec.Uncertainty(kind="uncertainty"), ["a", "b"], [1, 1])
    x = torch.tensor(0.05)
    for _ in range(1500):
        losses = torch.stack([(x + 1) ** 2, (x - 1) ** 2]) + 0.5
        weights = step(balancer, losses, torch.eye(2))
        x = x - 0.1 * (weights * torch.stack([2 * (x + 1), 2 * (x - 1)])).sum()
    torch.testing.assert_close(x, torch.tensor(0.5**0.5), rtol=1e-3, atol=0)
    torch.testing.assert_close(weights, torch.tensor([0.1464, 0.8536]), rtol=2e-3, atol=0)


def test_uncertainty_is_bounded_at_zero_loss() -> None:
    """A loss of 0 drives the log variance to its bound and no further, and it can come back."""
    balancer = build_balancer(spec.Uncertainty(kind="uncertainty"), ["a"], [1])
    for _ in range(400):
        top = step(balancer, torch.zeros(1), torch.eye(1))
    torch.testing.assert_close(top, 0.5 * torch.tensor([10.0]).exp())
    assert step(balancer, torch.ones(1), torch.eye(1)) > balancer(torch.ones(1), torch.eye(1))


def test_gradient_norm_makes_norms_equal_to_their_mean() -> None:
    """Constant norms 1, 10, 100 all become 37, from the first step on."""
    gram = torch.diag(torch.tensor([1.0, 100.0, 10000.0]))
    balancer = build_balancer(spec.GradientNorm(kind="gradient_norm"), ["a", "b", "c"], [1, 1, 1])
    for _ in range(3):
        weights = balancer(torch.ones(3), gram)
        torch.testing.assert_close(norms(gram, weights), torch.full((3,), 37.0))


def test_gradient_norm_multiplies_by_hand_weights() -> None:
    """A task of weight 2 gets twice the others' gradient norm."""
    section = spec.GradientNorm(kind="gradient_norm", weights={"b": 2.0})
    gram = torch.diag(torch.tensor([1.0, 9.0]))
    weights = build_balancer(section, ["a", "b"], [1, 1])(torch.ones(2), gram)
    torch.testing.assert_close(norms(gram, weights), torch.tensor([2.0, 4.0]))


def test_gradient_norm_ignores_a_task_without_gradient() -> None:
    """A task that never had a gradient keeps weight 1; the others are as if it did not exist."""
    balancer = build_balancer(spec.GradientNorm(kind="gradient_norm"), ["a", "b", "c"], [1, 1, 1])
    weights = balancer(torch.ones(3), torch.diag(torch.tensor([0.0, 1.0, 9.0])))
    torch.testing.assert_close(weights, torch.tensor([1.0, 2.0, 2 / 3]))


def test_gradient_norm_waits_for_a_task_that_pauses() -> None:
    """Steps at which a task has no gradient neither lower its mean nor count in its correction."""
    section = spec.GradientNorm(kind="gradient_norm", momentum=0.5)
    paused, steady = (
        build_balancer(section, ["a", "b"], [1, 1]),
        build_balancer(section, ["a", "b"], [1, 1]),
    )
    for x in (2.0, 0.0, 0.0, 6.0):
        gram = torch.diag(torch.tensor([x**2, 1.0]))
        weights = paused(torch.ones(2), gram)
        if x:
            expected = steady(torch.ones(2), gram)
    torch.testing.assert_close(weights, expected)


def test_gradient_norm_is_bounded() -> None:
    """A gradient that is all but 0 is weighted 1e8 times at most."""
    balancer = build_balancer(spec.GradientNorm(kind="gradient_norm"), ["a", "b"], [1, 1])
    weights = balancer(torch.ones(2), torch.diag(torch.tensor([1e-40, 1e38])))
    torch.testing.assert_close(weights, torch.tensor([1e8, 0.5]))


def pair(norm: float, cosine: float) -> Tensor:
    """Gram matrix of a gradient of this norm and one of norm 1."""
    return torch.tensor([[norm**2, norm * cosine], [norm * cosine, 1.0]])


def two(method: str, gram: Tensor) -> Tensor:
    weights: Tensor = build(torchjd(method), ["a", "b"], [1, 1])(torch.ones(2), gram)
    return weights


needs_torchjd = pytest.mark.skipif(find_spec("torchjd") is None, reason="torchjd is not installed")


@needs_torchjd
@pytest.mark.parametrize("cosine", [-1.0, -0.9, 0.0, 0.6])
@pytest.mark.parametrize("norm", [1e-3, 2.0, 1e4])
def test_imtlg_of_two_tasks(norm: float, cosine: float) -> None:
    """α_i = (1/|g_i|) / Σ (1/|g_j|), at any ratio between the norms, opposite gradients too."""
    inverse = torch.tensor([1 / norm, 1.0])
    weights_now = two("IMTLG", pair(norm, cosine))
    torch.testing.assert_close(weights_now, inverse / inverse.sum(), rtol=1e-3, atol=0)


@needs_torchjd
@pytest.mark.parametrize("cosine", [-0.9, 0.0, 0.6])
@pytest.mark.parametrize("norm", [1e-3, 2.0, 1e4])
def test_nash_of_two_tasks(norm: float, cosine: float) -> None:
    """α_i ∝ 1/|g_i|, at any ratio between the norms."""
    weights_now = two("NashMTL", pair(norm, cosine))
    torch.testing.assert_close(
        weights_now[1] / weights_now[0], torch.tensor(norm), rtol=1e-2, atol=0
    )


@needs_torchjd
@pytest.mark.parametrize(("norm", "cosine"), [(2.0, -0.5), (2.0, 0.9), (0.5, 0.1), (1.0, -1.0)])
def test_mgda_of_two_tasks(norm: float, cosine: float) -> None:
    """α_1 = clip((g22 − g12) / (g11 + g22 − 2 g12), 0, 1)."""
    gram = pair(norm, cosine)
    first = (1 - gram[0, 1]) / (gram[0, 0] + 1 - 2 * gram[0, 1])
    weights_now = two("MGDA", gram)
    torch.testing.assert_close(weights_now[0], first.clamp(0, 1), rtol=1e-3, atol=1e-3)


@needs_torchjd
@pytest.mark.parametrize(("norm", "cosine"), [(2.0, -0.5), (0.1, -0.9), (3.0, 0.5)])
def test_pcgrad_of_two_tasks(norm: float, cosine: float) -> None:
    """(1 − g12/g11, 1 − g12/g22) where the gradients conflict, else (1, 1)."""
    gram = pair(norm, cosine)
    expected = 1 - gram[0, 1].clamp(max=0) / gram.diagonal()
    torch.testing.assert_close(two("PCGrad", gram), expected)


# --- torchjd's adapter ------------------------------------------------------------------------


def fault(section: spec.TorchJD, tasks: int = K) -> str:
    with pytest.raises(InputError) as caught:
        build_balancer(section, TASKS[:tasks], SIZES[:tasks])
    return str(caught.value)


@needs_torchjd
def test_every_method_of_torchjd_is_decided() -> None:
    """Each aggregator, weighting and scalarizer of the installed torchjd is served or refused."""
    from torchjd import aggregation, scalarization

    bases = {"Aggregator", "GramianWeightedAggregator", "WeightedAggregator", "Scalarizer", ""}
    offered = [*aggregation.__all__, *scalarization.__all__]
    names = {name.removesuffix("Weighting") for name in offered} - bases
    assert names == set(methods()) | set(UNFIT)
    assert len(methods()) == len(set(methods()))


@needs_torchjd
@pytest.mark.parametrize("method", UNFIT)
def test_unfit_methods_are_refused_with_the_reason(method: str) -> None:
    """A method that needs more than one Gram matrix has another error than one that is unknown."""
    assert UNFIT[method] in fault(torchjd(method))


@needs_torchjd
@pytest.mark.parametrize(
    ("section", "message"),
    [
        (torchjd("upgrad"), "did you mean UPGrad?"),
        (torchjd("Weighting"), "torchjd has no such method"),
        (torchjd("MGDA", epsilom=1.0), "did you mean epsilon?"),
        (torchjd("IMTLG", c=1.0), "there is none"),
        (torchjd("MGDA", epsilon=-1.0), "epsilon must be positive"),
        (torchjd("MGDA", epsilon="small"), "$.balance.options"),
        (torchjd("AlignedMTL", scale_mode="max"), "Invalid scale_mode='max'"),
        (torchjd("NashMTL", n_tasks=3), "NashMTL has no such option"),
        (spec.TorchJD(kind="torchjd", method="CAGrad"), "'c'"),
        (torchjd("Krum", n_byzantine=2), "at least 5 rows"),
    ],
    ids=lambda value: value.method if isinstance(value, spec.TorchJD) else "",
)
def test_wrong_methods_and_options_are_refused(section: spec.TorchJD, message: str) -> None:
    """What does not fit is refused before training, in one line with its place and a remedy."""
    if section.method == "CAGrad" and find_spec("clarabel") is None:
        pytest.skip("CAGrad's solver is not installed")
    line = fault(section)
    assert line.startswith("$.balance.")
    assert message in line
    assert "\n" not in line


def test_missing_torchjd_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchjd the error names what to install."""
    monkeypatch.setitem(sys.modules, "torchjd", None)
    assert 'pip install "evengrad[torchjd]"' in fault(torchjd("UPGrad"))


INDEFINITE = torch.tensor([[1.0, 5.0], [5.0, 1.0]])


@needs_torchjd
@pytest.mark.parametrize(
    ("method", "gram"),
    [
        ("UPGrad", INDEFINITE),  # quadprog raises
        ("CAGrad", pair(1e5, 0.0)),  # weighs both 0
        ("GradVac", torch.full((2, 2), torch.nan)),  # would keep NaN in its state
        ("PCD", torch.full((2, 2), torch.nan)),
        ("NashMTL", torch.full((2, 2), torch.nan)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_failed_solver_is_counted_and_leaves_the_state(method: str, gram: Tensor) -> None:
    """Where a method has no answer the step takes 1/K and counts it, and the state stays."""
    balancer = build(torchjd(method), ["a", "b"], [1, 1])
    for stats in walk(3, tasks=2):
        balancer(*stats)
    before = {name: value.clone() for name, value in balancer.state_dict().items()}
    assert before.pop("fallbacks") == 0
    before.pop("steps")
    assert balancer(torch.ones(2), gram).tolist() == [0.5, 0.5]
    assert balancer.get_buffer("fallbacks") == 1
    for name, value in before.items():
        assert torch.equal(balancer.get_buffer(name), value)


@needs_torchjd
@pytest.mark.parametrize("method", STATE)
def test_state_of_a_method_is_kept(method: str) -> None:
    """What a stateful method learns reaches our buffers."""
    balancer = build(torchjd(method))
    fresh = {name: value.clone() for name, value in balancer.named_buffers() if "state" in name}
    balancer(*next(walk(1)))
    assert fresh
    assert all(not torch.equal(balancer.get_buffer(name), old) for name, old in fresh.items())


@needs_torchjd
def test_random_draws_follow_the_seed() -> None:
    """Two runs of one seed draw alike; another seed, and the next step, draw otherwise."""
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        balancer = build(torchjd("Random"))
        drawn.append([balancer(torch.ones(K), torch.eye(K)).tolist() for _ in range(2)])
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert drawn[0][0] != drawn[0][1]


@needs_torchjd
def test_a_dead_task_leaves_mgda_to_the_others() -> None:
    """MGDA's weights of the live tasks keep the ratio they have without the dead one."""
    gram = torch.zeros(3, 3)
    gram[1:, 1:] = pair(2.0, -0.2)
    weights = build(torchjd("MGDA"), ["a", "b", "c"], [1, 1, 1])(torch.ones(3), gram)
    alone = two("MGDA", pair(2.0, -0.2))
    torch.testing.assert_close(weights[1] / weights[2], alone[0] / alone[1], rtol=1e-2, atol=0)
    assert weights[0] > 0
