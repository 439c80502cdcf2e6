"""Losses, transforms and baselines, beside their definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from job import baseline, spec
from job.baseline import Baseline, best_constant
from job.tasks import TaskLoss, mean_loss
from tests.nets import batch, task

REGRESSION: list[dict[str, Any]] = [
    {"kind": "mse"},
    {"kind": "mae"},
    {"kind": "huber", "delta": 0.5},
]
TRANSFORMS: list[dict[str, Any]] = [
    {"kind": "none"},
    {"kind": "scale", "by": 20.0},
    {"kind": "standardize"},
]
ACTIVATIONS = ["identity", "sigmoid", "tanh", "relu"]


def loss_of(loss: dict[str, Any], level: str = "step", outputs: int = 2, **more: Any) -> TaskLoss:
    return TaskLoss(task("y", level, loss["kind"], outputs, **({"loss": loss} | more)))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- losses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "activation", "outputs", "target", "share"),
    [
        ("huber", "identity", [0.0, 0, 0, 0], [0.4, -0.4, 0.6, -9], 0.5),
        ("huber", "sigmoid", [9.0, -9, 9, 0], [0, 0, 1, 1], 0.25),
        ("mse", "identity", [0.0, 0, 0, 0], [9, 9, 9, 9], 0.0),
        ("mse", "sigmoid", [9.0, -9, 9, 0], [0, 0, 1, 1], 0.25),
        ("mae", "tanh", [9.0, -9, 9, 0], [-1, 1, 1, 1], 0.5),
        ("mse", "relu", [-1.0, -1, 1, 1], [1, 0, 5, -1], 0.25),
        ("binary_cross_entropy", "identity", [9.0, -9, 9, 0], [0, 1, 0, 1], 0.0),
    ],
)
def test_where_a_loss_is_saturated(
    loss: str, activation: str, outputs: list[float], target: list[float], share: float
) -> None:
    """Beyond Huber's delta, 0.5, and where a flat activation is wrong; in transformed units."""
    section = {"kind": loss} | ({"delta": 0.5} if loss == "huber" else {})
    plain = loss_of(section, outputs=1, activation=activation)
    at = torch.tensor([outputs]).mT, torch.tensor([target]).mT
    assert plain.saturated(*at) == share
    if loss not in spec.CATEGORICAL:
        transform = {"kind": "scale", "by": 20.0}
        scaled = loss_of(section, outputs=1, activation=activation, transform=transform)
        assert scaled.saturated(at[0], 20 * at[1]) == share


def test_losses_are_their_definitions() -> None:
    """Each loss is the mean over all elements of its textbook formula."""
    p, y = draw(7, 3, 2), 2 * draw(7, 3, 2, seed=1)
    gap = (p - y).abs()
    labels, bits = torch.randint(2, (7, 3)), torch.randint(2, (7, 3, 2)).float()
    delta = 0.5
    cases: list[tuple[spec.Loss, Tensor, Tensor]] = [
        (spec.MeanSquare(kind="mse"), y, gap.square()),
        (spec.MeanAbsolute(kind="mae"), y, gap),
        (
            spec.Huber(kind="huber", delta=delta),
            y,
            torch.where(gap < delta, gap.square() / 2, delta * (gap - delta / 2)),
        ),
        (
            spec.CrossEntropy(kind="cross_entropy"),
            labels,
            -p.softmax(-1).log().gather(-1, labels[..., None]),
        ),
        (
            spec.BinaryCrossEntropy(kind="binary_cross_entropy"),
            bits,
            -torch.where(bits > 0, p.sigmoid(), 1 - p.sigmoid()).log(),
        ),
    ]
    for loss, target, elements in cases:
        torch.testing.assert_close(mean_loss(loss, p, target), elements.mean())


@pytest.mark.parametrize("level", ["step", "window"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: str(t["kind"]))
@pytest.mark.parametrize("loss", REGRESSION, ids=lambda x: str(x["kind"]))
def test_original_units_are_those_of_the_prediction(
    loss: dict[str, Any], transform: dict[str, Any], activation: str, level: str
) -> None:
    """The loss in original units is the loss of `predict()`; the other is that of the activated
    outputs against the transformed target, and alone carries a gradient."""
    made = loss_of(loss, level, transform=transform, activation=activation)
    shape = (9, 4, 2) if level == "step" else (9, 2)
    target, outputs = 5 + 3 * draw(*shape), draw(*shape, seed=1).requires_grad_()
    made.fit(target)
    transformed, original = made(outputs, target)
    torch.testing.assert_close(
        original, mean_loss(made.task.loss, made.predict(outputs.detach()), target)
    )
    goal = (target - made.shift) / made.scale
    torch.testing.assert_close(transformed, mean_loss(made.task.loss, made.activate(outputs), goal))
    assert transformed.requires_grad
    assert not original.requires_grad


def test_losses_of_classes_have_one_unit() -> None:
    """The losses of classes are the same in both units, and predictions are probabilities."""
    outputs = draw(9, 4, 3)
    labels = torch.randint(3, (9, 4))
    made = loss_of({"kind": "cross_entropy"}, outputs=3)
    transformed, original = made(outputs, labels)
    assert transformed == original
    torch.testing.assert_close(made.predict(outputs).sum(-1), torch.ones(9, 4))
    made = loss_of({"kind": "binary_cross_entropy"}, outputs=3)
    transformed, original = made(outputs, torch.ones(9, 4, 3))
    assert transformed == original
    assert torch.equal(made.predict(outputs), outputs.sigmoid())


def test_low_precision_outputs_are_judged_in_float32() -> None:
    """Outputs in bf16 give a loss in float32."""
    made = loss_of({"kind": "mse"})
    assert made(draw(9, 4, 2).bfloat16(), draw(9, 4, 2, seed=1))[0].dtype == torch.float32


# --- transforms -------------------------------------------------------------------------------


def test_standardize_is_fitted_per_output_on_what_it_is_given() -> None:
    """Shift and scale are mean and population deviation of each output over the given targets, and
    judging others leaves them alone."""
    made = loss_of({"kind": "mse"}, transform={"kind": "standardize"})
    target = torch.tensor([3.0, -700.0]) + torch.tensor([0.1, 40.0]) * draw(50, 6, 2)
    made.fit(target)
    flat = target.double().flatten(0, 1)
    torch.testing.assert_close(made.shift, flat.mean(0).float())
    torch.testing.assert_close(made.scale, flat.std(0, correction=0).float())
    goal = (target - made.shift) / made.scale
    torch.testing.assert_close(goal.mean((0, 1)), torch.zeros(2), rtol=0, atol=1e-4)
    torch.testing.assert_close(goal.std((0, 1), correction=0), torch.ones(2))
    kept = made.shift.clone(), made.scale.clone()
    made(draw(5, 6, 2), draw(5, 6, 2, seed=1))
    assert torch.equal(made.shift, kept[0])
    assert torch.equal(made.scale, kept[1])


def test_a_constant_target_is_only_shifted() -> None:
    """A target that never changes is not divided by its deviation of 0."""
    made = loss_of({"kind": "mse"}, transform={"kind": "standardize"})
    made.fit(torch.full((50, 6, 2), 0.1))
    assert made.scale.tolist() == [1, 1]
    assert made(torch.zeros(5, 6, 2), torch.full((5, 6, 2), 0.1))[1] < 1e-12


@pytest.mark.parametrize("transform", TRANSFORMS[:2], ids=lambda t: str(t["kind"]))
def test_other_transforms_ignore_the_data(transform: dict[str, Any]) -> None:
    """`none` and `scale` are what the spec says, whatever the targets."""
    made = loss_of({"kind": "mse"}, transform=transform)
    made.fit(5 + draw(50, 6, 2))
    assert made.shift.tolist() == [0, 0]
    assert made.scale.tolist() == [transform.get("by", 1.0)] * 2


def test_a_transform_travels_in_the_state() -> None:
    """A loss restored from a state predicts as the one that was fitted."""
    made, other = (loss_of({"kind": "mse"}, transform={"kind": "standardize"}) for _ in range(2))
    made.fit(5 + 3 * draw(50, 6, 2))
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(made.state_dict())))
    outputs = draw(4, 6, 2)
    assert torch.equal(made.predict(outputs), other.predict(outputs))


# --- where heads start ------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: str(t["kind"]))
def test_a_resting_head_predicts_the_mean(transform: dict[str, Any], activation: str) -> None:
    """A head at its resting output predicts the mean of the training target, in original units."""
    made = loss_of({"kind": "mse"}, transform=transform, activation=activation)
    target = torch.tensor([0.2, 0.7]) + 0.1 * draw(50, 6, 2)
    made.fit(target)
    predicted = made.predict(made.resting_output(target))
    torch.testing.assert_close(predicted, target.mean((0, 1)), rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("mean", [-8.0, 8.0])
def test_a_mean_out_of_reach_starts_where_it_can_learn(activation: str, mean: float) -> None:
    """Where an activation cannot give the mean, the head starts at the end that is nearer, with a
    gradient left to leave it."""
    made = loss_of({"kind": "mse"}, outputs=1, activation=activation)
    target = torch.full((50, 6, 1), mean)
    resting = made.resting_output(target) + 1e-4
    resting.requires_grad_()
    predicted = made.predict(resting)
    ends = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, 8.0)}[activation]
    assert predicted.item() == pytest.approx(ends[mean > 0], abs=2e-3)
    (slope,) = torch.autograd.grad(predicted.sum(), resting)
    assert slope > 1e-4


def test_resting_classes_have_their_frequencies() -> None:
    """A resting head of classes predicts their frequencies, and a class that never occurs finitely
    little."""
    labels = torch.tensor([[0, 1], [1, 1], [1, 0]])
    made = loss_of({"kind": "cross_entropy"}, outputs=3)
    resting = made.resting_output(labels)
    assert resting.isfinite().all()
    torch.testing.assert_close(
        made.predict(resting), torch.tensor([2 / 6, 4 / 6, 0]), atol=1e-5, rtol=0
    )
    bits = torch.tensor([[[0.0, 1.0], [1.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    made = loss_of({"kind": "binary_cross_entropy"})
    resting = made.resting_output(bits)
    assert resting.isfinite().all()
    torch.testing.assert_close(made.predict(resting), torch.tensor([0.25, 1.0]), atol=1e-5, rtol=0)


# --- baselines --------------------------------------------------------------------------------

values = st.floats(-100, 100, width=32)


@given(
    target=st.lists(values, min_size=1, max_size=30),
    rival=values,
    which=st.integers(0, len(REGRESSION) - 1),
)
@settings(max_examples=200, deadline=None)
def test_no_constant_beats_the_best(target: list[float], rival: float, which: int) -> None:
    """No other constant has a lower loss than the best constant."""
    loss = loss_of(REGRESSION[which]).task.loss
    y = torch.tensor(target, dtype=torch.float64)[:, None]
    best = mean_loss(loss, best_constant(loss, 1, y).expand_as(y), y)
    other = mean_loss(loss, torch.full_like(y, rival), y)
    assert best <= other + 1e-9 * (1 + other)


@given(
    counts=st.lists(st.integers(0, 20), min_size=2, max_size=5).filter(any),
    logits=st.lists(st.floats(-5, 5), min_size=5, max_size=5),
)
@settings(max_examples=100, deadline=None)
def test_no_logits_beat_the_best_for_classes(counts: list[int], logits: list[float]) -> None:
    """No logits have a lower cross-entropy over the samples and one pseudo-sample, spread evenly
    over the classes, than the best constant; it is finite for every class."""
    k = len(counts)
    loss = spec.CrossEntropy(kind="cross_entropy")
    y = torch.arange(k).repeat_interleave(torch.tensor(counts))

    def penalised(guess: Tensor) -> Tensor:
        pseudo = mean_loss(loss, guess.expand(k, k), torch.arange(k))
        return mean_loss(loss, guess.expand(len(y), k), y) * len(y) + pseudo

    best = best_constant(loss, k, y, pseudo=1)
    assert best.isfinite().all()
    assert penalised(best) <= penalised(torch.tensor([logits[:k]], dtype=torch.float64)) + 1e-9


@given(ones=st.integers(0, 20), zeros=st.integers(1, 20), logit=st.floats(-8, 8))
@settings(max_examples=100, deadline=None)
def test_no_logit_beats_the_best_for_bits(ones: int, zeros: int, logit: float) -> None:
    """The same for 0/1 targets, the pseudo-sample half 0 and half 1."""
    loss = spec.BinaryCrossEntropy(kind="binary_cross_entropy")
    y = torch.tensor([1.0] * ones + [0.0] * zeros, dtype=torch.float64)[:, None]

    def penalised(guess: Tensor) -> Tensor:
        both = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        pseudo = mean_loss(loss, guess.expand(2, 1), both)
        return mean_loss(loss, guess.expand_as(y), y) * len(y) + pseudo

    best = best_constant(loss, 1, y, pseudo=1)
    assert best.isfinite().all()
    assert penalised(best) <= penalised(torch.tensor([[logit]], dtype=torch.float64)) + 1e-9


@pytest.mark.parametrize("loss", REGRESSION, ids=lambda x: str(x["kind"]))
@given(seed=st.integers(0, 500))
@settings(max_examples=20, deadline=None)
def test_a_constant_per_position_is_no_worse(loss: dict[str, Any], seed: int) -> None:
    """On the training split a constant per position never loses to one for all positions."""
    made = loss_of(loss).task
    found = baseline.fit(made, 3 * draw(6, 4, 2, seed=seed), draw(3, 4, 2, seed=seed + 1))
    assert found.per_position is not None
    assert found.per_position["train"] <= found.constant["train"] + 1e-6


def test_the_training_score_is_the_entropy() -> None:
    """On the split that it was fitted on, the best constant for classes or bits scores exactly the
    entropy of their frequencies, a class or a position that never varies included; on the other
    split a class that was never seen costs no infinity."""
    kinds = torch.tensor([0, 0, 0, 2])
    found = baseline.fit(task("y", "window", "cross_entropy", 3), kinds, torch.tensor([1]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found.constant["train"] == pytest.approx(entropy, abs=1e-7)
    assert 1 < found.constant["validation"] < 10
    bits = torch.tensor([[[0.0], [1.0]], [[0.0], [0.0]]])
    found = baseline.fit(task("y", "step", "binary_cross_entropy", 1), bits, bits)
    assert found.per_position is not None
    assert found.per_position["train"] == pytest.approx(math.log(2) / 2, abs=1e-7)


def test_baselines_are_fitted_on_train_alone() -> None:
    """Both are fitted per output on the training split and judged on each split, in the units of
    the target."""
    made = loss_of({"kind": "mse"}, transform={"kind": "scale", "by": 7.0}).task
    train, validation = 5 + draw(30, 4, 2), draw(9, 4, 2, seed=1)
    found = baseline.fit(made, train, validation)
    over_all, by_position = train.mean((0, 1)), train.mean(0)
    assert found.constant == pytest.approx(
        {
            "train": (train - over_all).square().mean().item(),
            "validation": (validation - over_all).square().mean().item(),
        }
    )
    assert found.per_position == pytest.approx(
        {
            "train": (train - by_position).square().mean().item(),
            "validation": (validation - by_position).square().mean().item(),
        }
    )


@pytest.mark.parametrize("kind", ["cross_entropy", "binary_cross_entropy", "mse", "mae", "huber"])
@pytest.mark.parametrize("level", ["step", "window"])
def test_every_kind_of_task_has_a_baseline(kind: str, level: str) -> None:
    """Each loss has a finite best constant at either level, and one per position where there are
    positions; knowing the positions' own values helps where they differ."""
    made = task("y", level, kind, 3)
    target = batch([made], size=40).targets[0]
    if level == "step":
        target = target[:1].expand_as(target).contiguous()  # all samples alike
    found = baseline.fit(made, target, target)
    assert all(math.isfinite(x) for x in found.constant.values())
    assert (found.per_position is None) == (level == "window")
    if found.per_position is not None:
        assert found.per_position["train"] < 0.2 * found.constant["train"]


def test_the_strongest_is_chosen_on_train() -> None:
    """Of two baselines the one that does better on train is the yardstick on every split, even
    where the other does better there."""
    found = Baseline({"train": 2.0, "validation": 1.0}, {"train": 1.5, "validation": 3.0})
    assert (found.strongest("train"), found.strongest("validation")) == (1.5, 3.0)
    found = Baseline({"train": 2.0, "validation": 3.0}, {"train": 2.5, "validation": 1.0})
    assert (found.strongest("train"), found.strongest("validation")) == (2.0, 3.0)
    assert Baseline({"train": 2.0, "validation": 1.0}, None).strongest("validation") == 1.0
