"""torchjd's scalarizers as balancers, each against its formula in numpy."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
import torch
from torch import Tensor

from job import spec
from job.balance.base import Balancer
from job.balance.build import build_balancer
from job.errors import InputError
from job.train.precision import LossScale
from tests.support.nets import MIXED, Net, batch

pytestmark = pytest.mark.skipif(find_spec("torchjd") is None, reason="torchjd is not installed")

Vector = npt.NDArray[np.float64]
K = 3


def make(method: str, **options: Any) -> Balancer:
    section = spec.TorchJD(kind="torchjd", method=method, options=options)
    return build_balancer(section, [f"t{k}" for k in range(K)], [1] * K)


def weights(balancer: Balancer, losses: Vector) -> Vector:
    found: Tensor = balancer(torch.tensor(losses, dtype=torch.float32), torch.eye(K))
    return found.double().numpy()


def walk(steps: int, seed: int = 0) -> Iterator[Vector]:
    draw = np.random.default_rng(seed)
    for _ in range(steps):
        yield draw.uniform(0.05, 3.0, K)


def softmax(x: Vector) -> Vector:
    powers = np.exp(x - x.max())
    exact: Vector = powers / powers.sum()
    return exact


def geometric_mean(x: Vector) -> Vector:
    exact: Vector = x.prod() ** (1 / K) / (K * x)
    return exact


def stch(x: Vector) -> Vector:
    return softmax(x / K / 0.1) / K


def cosmos(x: Vector) -> Vector:
    r = np.full(K, 1 / K)
    lengths = np.linalg.norm(r) * np.linalg.norm(x)
    exact: Vector = r - 0.7 * (r / lengths - (r @ x) * x / (lengths * (x @ x)))
    return exact


def pbi(x: Vector) -> Vector:
    direction = np.full(K, K**-0.5)
    across = x - (x @ direction) * direction
    exact: Vector = direction + 5 * across / np.linalg.norm(across)
    return exact


STATELESS = {
    "GeometricMean": (geometric_mean, {}),
    "STCH": (stch, {"mu": 0.1}),
    "COSMOS": (cosmos, {"lambda_": 0.7}),
    "PBI": (pbi, {"theta": 5.0}),
}


@pytest.mark.parametrize("method", STATELESS)
def test_weights_are_the_slopes_of_the_formula(method: str) -> None:
    """Each weight is the published function's slope by that loss."""
    formula, options = STATELESS[method]
    balancer = make(method, **options)
    for losses in walk(20):
        np.testing.assert_allclose(weights(balancer, losses), formula(losses), rtol=2e-4, atol=1e-5)
    assert balancer.get_buffer("fallbacks") == 0


@pytest.mark.parametrize(("method", "sign", "half"), [("IMTLL", 1, 1.0), ("UW", -1, 0.5)])
def test_log_scales_are_trained_by_gradient_descent(method: str, sign: int, half: float) -> None:
    """IMTL-L has weights exp(s) and slopes exp(s) L − 1; UW's are half of that at −s."""
    balancer = make(method)
    (scale,) = balancer.parameters()
    s = np.zeros(K)
    for losses in walk(30):
        np.testing.assert_allclose(weights(balancer, losses), half * np.exp(sign * s), rtol=1e-4)
        objective = balancer.objective(torch.tensor(losses, dtype=torch.float32))
        assert objective is not None
        (slope,) = torch.autograd.grad(objective, [scale])
        expected = sign * half * (np.exp(sign * s) * losses - 1)
        np.testing.assert_allclose(slope.numpy(), expected, rtol=1e-4, atol=1e-5)
        scale.data -= 0.1 * slope
        s = s - 0.1 * expected


@pytest.mark.parametrize("method", ["IMTLL", "UW"])
def test_a_loss_of_0_has_a_bounded_weight(method: str) -> None:
    """The log scales end at ±10."""
    balancer = make(method)
    for scale in balancer.parameters():
        scale.data.fill_(50.0 if method == "IMTLL" else -50.0)
    assert weights(balancer, np.zeros(K)).max() <= np.exp(10) * 1.001


def dwa(epochs: list[list[Vector]], temperature: float) -> list[Vector]:
    """The weights of each epoch, by the paper's equations 7 and 8."""
    means = [np.mean(epoch, axis=0) for epoch in epochs]
    rates = [np.ones(K), np.ones(K)] + [b / a for a, b in pairwise(means)]
    return [K * softmax(rate / temperature) for rate in rates[: len(epochs)]]


def test_dwa_follows_the_rates_of_the_last_two_epochs() -> None:
    """Equal weights in two epochs, then K softmax(rate / T); no batch of an epoch changes them."""
    epochs = [list(walk(4, seed)) for seed in range(5)]
    balancer = make("DWA", temperature=1.5)
    for epoch, expected in zip(epochs, dwa(epochs, 1.5), strict=True):
        for losses in epoch:
            np.testing.assert_allclose(weights(balancer, losses), expected, rtol=1e-5)
        balancer.end_epoch()


class Famo:
    """FAMO's algorithm 2 with Adam's equations, in numpy (Liu et al. 2023)."""

    def __init__(self, lr: float, decay: float) -> None:
        self.lr, self.decay, self.steps = lr, decay, 0
        self.logits, self.m, self.v = np.zeros(K), np.zeros(K), np.zeros(K)

    def weights(self, losses: Vector) -> Vector:
        z = softmax(self.logits) / (losses + 1e-8)
        exact: Vector = z / z.sum()
        return exact

    def update(self, before: Vector, after: Vector) -> None:
        change = np.log(before + 1e-8) - np.log(after + 1e-8)
        z = softmax(self.logits)
        slope = z * (change - z @ change) + self.decay * self.logits
        self.steps += 1
        self.m = 0.9 * self.m + 0.1 * slope
        self.v = 0.999 * self.v + 0.001 * slope**2
        first, second = self.m / (1 - 0.9**self.steps), self.v / (1 - 0.999**self.steps)
        self.logits = self.logits - self.lr * first / (np.sqrt(second) + 1e-8)


def test_famo_is_its_algorithm() -> None:
    """Weights and logits follow algorithm 2 over 40 updates."""
    ours, theirs = make("FAMO", lr=0.05, weight_decay=0.01), Famo(0.05, 0.01)
    for before, after in zip(walk(40, 1), walk(40, 2), strict=True):
        np.testing.assert_allclose(weights(ours, before), theirs.weights(before), rtol=1e-3)
        ours.observe(torch.tensor(after, dtype=torch.float32))
        theirs.update(before, after)


@pytest.mark.parametrize("method", ["FAMO", "DWA"])
def test_state_has_fixed_shapes_and_resumes_between_any_two_calls(method: str) -> None:
    """Saved after the weights, the observation or the epoch, another balancer goes on bit for
    bit, and the state's names and shapes are those of a new balancer."""

    def calls(balancer: Balancer) -> Iterator[Tensor]:
        for i, losses in enumerate(walk(12)):
            yield balancer(torch.tensor(losses, dtype=torch.float32), torch.eye(K))
            if balancer.observes:
                balancer.observe(torch.tensor(losses, dtype=torch.float32) * 0.9)
            if i % 3 == 2:
                balancer.end_epoch()

    expected = list(calls(make(method)))
    interrupted = make(method)
    fresh = {name: value.shape for name, value in interrupted.state_dict().items()}
    for weight, want in zip(calls(interrupted), expected, strict=True):
        assert torch.equal(weight, want)
        saved = safetensors.torch.save(interrupted.state_dict())
        loaded = safetensors.torch.load(saved)
        assert {name: value.shape for name, value in loaded.items()} == fresh
        successor = make(method)
        successor.load_state_dict(loaded)
        interrupted._made = successor._made
        interrupted.load_state_dict(successor.state_dict())


def test_a_loss_of_0_under_the_geometric_mean_is_counted() -> None:
    """Its slope does not exist there: all tasks weigh the same, and the step is counted."""
    balancer = make("GeometricMean")
    assert weights(balancer, np.array([0.0, 1.0, 2.0])).tolist() == pytest.approx([1 / 3] * 3)
    assert balancer.get_buffer("fallbacks") == 1


@pytest.mark.parametrize(
    ("method", "options", "part"),
    [
        ("famo", {}, "did you mean FAMO?"),
        ("FAMO", {"lr": -1.0}, "`lr` should be non-negative"),
        ("FAMO", {"shape": 4}, "FAMO has no such option"),
        ("STCH", {}, "'mu'"),
        ("DWA", {"temperature": 0.0}, "strictly positive"),
        ("PBI", {"theta": 5.0, "reference": 1.0}, "PBI has no such option"),
    ],
)
def test_wrong_options_are_refused(method: str, options: dict[str, Any], part: str) -> None:
    """A fault is named in one line before training."""
    with pytest.raises(InputError) as caught:
        make(method, **options)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


# --- in the training step ---------------------------------------------------------------------

FAMO = {"kind": "torchjd", "method": "FAMO"}


def test_famo_observes_the_same_batch_after_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the losses that the updated network has on the step's batch, not the next one's."""
    net = Net(MIXED, FAMO, dropout=0.0)
    seen: list[Tensor] = []
    monkeypatch.setattr(net.stepper.balancer, "observe", lambda losses, _: seen.append(losses))
    at = batch(MIXED)
    before = net.step(at).losses
    with torch.no_grad():
        outputs = net.model(at.inputs)
        pairs = zip(net.stepper.losses, outputs, at.targets, strict=True)
        after = torch.stack([loss(o, y)[0] for loss, o, y in pairs])
    torch.testing.assert_close(seen[0], after)
    assert not torch.equal(seen[0], before)


def test_a_skipped_step_teaches_famo_nothing() -> None:
    """After an overflow its state is what it was, bit for bit."""
    net = Net(MIXED, FAMO, loss_scale=LossScale(4.0), dropout=0.0)
    net.step(batch(MIXED))
    before = {n: v.clone() for n, v in net.stepper.balancer.state_dict().items()}
    parameter = next(net.model.trunk.parameters())
    hook = parameter.register_hook(lambda grad: grad * float("inf"))
    assert net.step(batch(MIXED, seed=1)).skipped == 1
    hook.remove()
    for name, value in net.stepper.balancer.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert net.step(batch(MIXED)).skipped == 0
    assert not torch.equal(net.stepper.balancer.get_buffer("state_step"), before["state_step"])


@pytest.mark.parametrize(
    "method",
    [
        "FAMO",
        "DWA",
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("IMTLL", "UW", "GeometricMean")),
    ],
)
def test_steps_train_under_a_scalarizer(method: str) -> None:
    """The losses' weighted sum falls over 30 steps on one batch."""
    net = Net(MIXED, {"kind": "torchjd", "method": method}, dropout=0.0)
    measured = [net.step(batch(MIXED)) for _ in range(30)]
    first, last = measured[0], measured[-1]
    assert last.losses @ first.weights < first.losses @ first.weights
    assert not last.halted
