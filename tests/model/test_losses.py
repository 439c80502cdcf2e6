"""Losses, transforms and baselines, beside their definitions."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from job import spec
from job.model.baselines import Baseline, Labels, fit_baseline
from job.model.labels import labelled
from job.model.losses import TaskLoss
from job.model.losses.best_constant import best_constant
from job.model.losses.element_losses import element_losses, mean_loss, sample_losses
from job.model.skill import measure_skill, unmeasurable
from tests.support.losses import LOSSES, task_of
from tests.support.nets import batch, task

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
STANDARD = {"kind": "standardize"}
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


@pytest.mark.parametrize("deviation", [1e-9, 1e-3, 1e6])
def test_standardize_works_at_any_scale(deviation: float) -> None:
    """However small or large its unit, a target that varies gets deviation 1; rounding does not."""
    made = loss_of({"kind": "mse"}, outputs=2, transform={"kind": "standardize"})
    y = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) * deviation
    y[:, 1] = 1e3 + 1e-5 * y[:, 1] / deviation  # below what float32 can tell from 1000
    made.fit(y)
    assert made.transformed(y)[:, 0].std(correction=0).item() == pytest.approx(1, rel=1e-4)
    assert made.scale[1] == 1


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
    predicted = made.predict(made.mean_output(target))
    torch.testing.assert_close(predicted, target.mean((0, 1)), rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("mean", [-8.0, 8.0])
def test_a_mean_out_of_reach_starts_where_it_can_learn(activation: str, mean: float) -> None:
    """Where an activation cannot give the mean, the head starts at the end that is nearer, with a
    gradient left to leave it."""
    made = loss_of({"kind": "mse"}, outputs=1, activation=activation)
    target = torch.full((50, 6, 1), mean)
    resting = made.mean_output(target) + 1e-4
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
    resting = made.mean_output(labels)
    assert resting.isfinite().all()
    torch.testing.assert_close(
        made.predict(resting), torch.tensor([2 / 6, 4 / 6, 0]), atol=1e-5, rtol=0
    )
    bits = torch.tensor([[[0.0, 1.0], [1.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    made = loss_of({"kind": "binary_cross_entropy"})
    resting = made.mean_output(bits)
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


def least_weighted(loss: spec.Loss, y: Tensor, weights: Tensor, outputs: int) -> float:
    """The least weighted mean loss of a constant prediction, found by a numerical search."""
    known = weights > 0
    y, weights = y[known], weights[known]

    def mean(guess: Tensor) -> Tensor:
        each = element_losses(loss, guess.expand(*y.shape, *guess.shape), y)
        return (each * weights).sum() / weights.sum()

    if loss.kind == "cross_entropy":
        logits = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
        search = torch.optim.LBFGS([logits], max_iter=300, line_search_fn="strong_wolfe")

        def slope() -> Tensor:
            search.zero_grad()
            value = mean(logits)
            value.backward()
            return value

        search.step(slope)
        return mean(logits).item()
    low, high = torch.tensor(-45.0, dtype=torch.float64), torch.tensor(45.0, dtype=torch.float64)
    for _ in range(150):
        third = (high - low) / 3
        if mean(low + third) < mean(high - third):
            high = high - third
        else:
            low = low + third
    return mean((low + high) / 2).item()


@pytest.mark.parametrize("kind", ["cross_entropy", "binary_cross_entropy", "mse", "mae", "huber"])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_best_constant_under_weights_is_the_least(kind: str, seed: int) -> None:
    """Its weighted mean loss over the labels is the least that a search finds."""
    random = torch.Generator().manual_seed(seed)
    n, outputs = int(torch.randint(1, 30, (1,), generator=random)), 3
    weights = torch.randint(0, 4, (n,), generator=random).double() * 0.7
    weights[0] = 0.5
    y = 4 * torch.randn(n, generator=random, dtype=torch.float64)
    if kind == "cross_entropy":
        y = torch.randint(outputs, (n,), generator=random)
    elif kind == "binary_cross_entropy":
        y = (y > 0).double()
    loss = task("y", "window", kind, outputs if kind == "cross_entropy" else 1).loss
    missing = torch.where(weights > 0, y, -1 if kind == "cross_entropy" else torch.nan)
    column = (slice(None),) if kind == "cross_entropy" else (slice(None), None)
    best = best_constant(loss, outputs, missing[column], 0.0, weights[column])
    known = weights > 0
    wide = best.expand(int(known.sum()), best.shape[-1])
    each = element_losses(loss, wide, y[known][column]).flatten()
    reached = ((each * weights[known]).sum() / weights.sum()).item()
    assert reached == pytest.approx(least_weighted(loss, y, weights, outputs), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("level", ["step", "window"])
def test_baselines_of_equal_weights_are_those_without(name: str, level: str) -> None:
    """Weights of 2 everywhere, and elements left out where labels are missing, give the baselines
    of the labels alone; the constants' samples give their mean."""
    made = task_of(name, level)
    known = TaskLoss(made, partial=True).labelled
    target, held_out = (batch([made], size=size, seed=size).targets[0] for size in (40, 30))
    plain = fit_baseline(made, Labels(target), Labels(held_out))
    twice = [Labels(y, 2.0 * known(y)) for y in (target, held_out)]
    weighted = fit_baseline(made, *twice)
    more = batch([made], size=50, seed=1).targets[0]
    more[:40] = target
    more[40:] = -1 if made.loss.of_classes else torch.nan
    once = Labels(held_out, known(held_out).float())
    masked = fit_baseline(made, Labels(more, known(more).float()), once)
    for other in (weighted, masked):
        for which in ("constant", "own_constant", "per_position", "all_positions"):
            mine, theirs = getattr(other, which), getattr(plain, which)
            assert (mine is None) == (theirs is None)
            if mine is not None:
                assert mine == pytest.approx(theirs, rel=1e-5)
        for split, each in plain.by_sample.items():
            torch.testing.assert_close(other.by_sample[split], each, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["mse", "mae", "binary_cross_entropy"])
def test_no_curve_over_time_has_skill(kind: str) -> None:
    """A smooth curve, even the true one, does not beat the baseline of a validation split, though
    the constants of 12 training samples are noisy: over 40 draws its mean skill is not above 0."""
    made = task("y", "step", kind, 1)
    generator = torch.Generator().manual_seed(0)
    curve = torch.linspace(-1, 1, 48)[None, :, None]
    skills = []
    for _ in range(40):
        if kind == "binary_cross_entropy":
            sure = (2 * curve).sigmoid().expand(52, 48, 1)
            y, guess = torch.bernoulli(sure, generator=generator), 2 * curve
        else:
            y, guess = curve + torch.randn(52, 48, 1, generator=generator), curve
        fitted = fit_baseline(made, Labels(y[:12]), Labels(y[12:]))
        loss = sample_losses(made.loss, guess.expand(40, 48, 1), y[12:]).mean().item()
        skills.append(1 - loss / fitted.strongest("validation"))
    assert statistics.fmean(skills) < 0


def test_a_position_without_labels_has_the_constant_of_all() -> None:
    """Where no training sample has a label, the constant per position is the one of all labels."""
    made = task("y", "step", "mse", missing="skip")
    target = draw(8, 3, 1)
    target[:, 1] = torch.nan
    held_out = draw(4, 3, 1, seed=1)
    labels = [Labels(y, labelled(y).float()) for y in (target, held_out)]
    fitted = fit_baseline(made, *labels)
    constant = target[~target.isnan()].mean()
    positions = torch.where(target.isnan(), constant, target).mean(0)
    assert fitted.per_position is not None
    expected = (held_out - positions).square().mean().item()
    assert fitted.per_position["validation"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", REGRESSION, ids=lambda x: str(x["kind"]))
@given(seed=st.integers(0, 500))
@settings(max_examples=20, deadline=None)
def test_a_constant_per_position_is_no_worse(loss: dict[str, Any], seed: int) -> None:
    """On the training split a constant per position never loses to one for all positions."""
    made = loss_of(loss).task
    fitted = fit_baseline(
        made, Labels(3 * draw(6, 4, 2, seed=seed)), Labels(draw(3, 4, 2, seed=seed + 1))
    )
    assert fitted.per_position is not None
    assert fitted.per_position["train"] <= fitted.constant["train"] + 1e-6


def test_the_training_score_is_the_entropy() -> None:
    """On the split that it was fitted on, the best constant for classes or bits scores exactly the
    entropy of their frequencies, a class or a position that never varies included; on the other
    split a class that was never seen costs no infinity."""
    kinds = torch.tensor([0, 0, 0, 2])
    fitted = fit_baseline(
        task("y", "window", "cross_entropy", 3), Labels(kinds), Labels(torch.tensor([1]))
    )
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert fitted.constant["train"] == pytest.approx(entropy, abs=1e-7)
    assert 1 < fitted.constant["validation"] < 10
    bits = torch.tensor([[[0.0], [1.0]], [[0.0], [0.0]]])
    fitted = fit_baseline(task("y", "step", "binary_cross_entropy", 1), Labels(bits), Labels(bits))
    assert fitted.per_position is not None
    assert fitted.per_position["train"] == pytest.approx(math.log(2) / 2, abs=1e-7)


def test_baselines_know_the_training_split_or_the_very_split() -> None:
    """Two are fitted per output on the training split and judged on each split, in the units of
    the target; the third is fitted on the split that it is judged on."""
    made = loss_of({"kind": "mse"}, transform={"kind": "scale", "by": 7.0}).task
    train, validation = 5 + draw(30, 4, 2), draw(9, 4, 2, seed=1)
    fitted = fit_baseline(made, Labels(train), Labels(validation))
    over_all, by_position = train.mean((0, 1)), train.mean(0)
    assert fitted.constant == pytest.approx(
        {
            "train": (train - over_all).square().mean().item(),
            "validation": (validation - over_all).square().mean().item(),
        }
    )
    assert fitted.per_position == pytest.approx(
        {
            "train": (train - by_position).square().mean().item(),
            "validation": (validation - by_position).square().mean().item(),
        }
    )
    assert fitted.own_constant == pytest.approx(
        {
            "train": (train - over_all).square().mean().item(),
            "validation": (validation - validation.mean((0, 1))).square().mean().item(),
        }
    )


@pytest.mark.parametrize("name", [name for name in LOSSES if "smoothed" not in name])
@pytest.mark.parametrize("level", ["step", "window"])
def test_every_kind_of_task_has_a_baseline(name: str, level: str) -> None:
    """Each loss has a finite best constant at either level, and one per position where there are
    positions; knowing the positions' own values helps where they differ."""
    made = task_of(name, level)
    target = batch([made], size=40).targets[0]
    if level == "step":
        target = target[:1].expand_as(target).contiguous()  # all samples alike
    fitted = fit_baseline(made, Labels(target), Labels(target))
    assert all(math.isfinite(x) for x in fitted.constant.values())
    assert (fitted.per_position is None) == (level == "window")
    if fitted.per_position is not None:
        share = 0.5 if name == "focal" else 0.2  # its labels are smoothed
        assert fitted.per_position["train"] < share * fitted.constant["train"]


def test_the_strongest_is_the_lowest_on_the_very_split() -> None:
    """Each split has its own yardstick: the one of the three that does best on it."""
    train, positions, own = (
        {"train": 2.0, "validation": 3.0},
        {"train": 1.5, "validation": 4.0},
        {"train": 2.0, "validation": 2.5},
    )
    fitted = Baseline(train, positions, own)
    assert (fitted.strongest("train"), fitted.strongest("validation")) == (1.5, 2.5)
    fitted = Baseline(train, {"train": 1.5, "validation": 1.0}, own)
    assert fitted.strongest("validation") == 1.0
    assert Baseline({"train": 2.0, "validation": 1.0}, None, own).strongest("validation") == 1.0


@pytest.mark.slow
@given(
    name=st.sampled_from(list(LOSSES)),
    level=st.sampled_from(["step", "window"]),
    size=st.integers(8, 40),
    seed=st.integers(0, 10_000),
    rival=st.none() | st.lists(st.floats(-4, 4, width=32), min_size=9, max_size=9),
)
@settings(max_examples=200, deadline=None)
def test_no_constant_has_skill(
    name: str, level: str, size: int, seed: int, rival: list[float] | None
) -> None:
    """Whatever one prediction is made for all samples, it has no positive skill on either split,
    nor on a part of the training split; not even the constant that is best there (rival: None)."""
    made = task_of(name, level)
    train, validation = (batch([made], n, seed + n).targets[0] for n in (size + 1, size))
    measured = train[: max(8, size // 2)]
    fitted = fit_baseline(made, Labels(train), Labels(validation), Labels(measured))
    for split, target in (("train", measured), ("validation", validation)):
        flat = target.flatten(0, 1) if level == "step" else target
        best = best_constant(made.loss, 3, flat).float()[0]
        guess = best if rival is None else torch.tensor(rival[: made.head_width])
        steps = target.shape[1:2] if level == "step" else ()
        guess = guess.expand(len(target), *steps, made.head_width)
        losses = sample_losses(made.loss, guess, target).double()
        assert losses.mean() >= fitted.strongest(split) * (1 - 1e-5)
        if unmeasurable(target, 1) is None:
            assert measure_skill(losses, fitted.by_sample[split], 1).value <= 1e-5


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("level", ["step", "window"])
def test_losses_by_sample_are_those_of_the_split(name: str, level: str) -> None:
    """The mean over the samples' losses is the loss of all at once: of predictions, of outputs in
    either unit, and of the strongest trivial prediction."""
    plain = task_of(name, level).loss.untransformed
    transform = {"kind": "none"} if plain else STANDARD
    made = TaskLoss(task_of(name, level, transform=transform))
    target = batch([made.task], 30).targets[0]
    made.fit(target)
    steps = target.shape[1:2] if level == "step" else ()
    outputs = 2 * draw(30, *steps, made.task.head_width)
    each = sample_losses(made.task.loss, outputs, target)
    assert each.shape == (30,)
    torch.testing.assert_close(each.mean(), mean_loss(made.task.loss, outputs, target))
    torch.testing.assert_close(each[7], mean_loss(made.task.loss, outputs[7:8], target[7:8]))
    for by_sample, mean in zip(made.by_sample(outputs, target), made(outputs, target), strict=True):
        assert by_sample.shape == (30,)
        torch.testing.assert_close(by_sample.mean(), mean)
    fitted = fit_baseline(
        made.task, Labels(target[:20]), Labels(target[20:]), Labels(target[:20:2])
    )
    for split, count in (("train", 10), ("validation", 10)):
        assert fitted.by_sample[split].shape == (count,)
        assert fitted.by_sample[split].mean().item() == pytest.approx(fitted.strongest(split))


def bisected(target: Tensor, delta: float, weights: Tensor) -> Tensor:
    """Where the derivative of the mean Huber loss is 0, by bisection alone."""
    low, high = target.double().amin(0), target.double().amax(0)
    for _ in range(100):
        middle = (low + high) / 2
        right = ((target - middle).clamp(-delta, delta) * weights).sum(0) > 0
        low, high = torch.where(right, middle, low), torch.where(right, high, middle)
    return high


@pytest.mark.parametrize("delta", [1e-3, 0.5, 2.0, 1e6])
@pytest.mark.parametrize("weigh", [False, True])
def test_the_best_constant_of_huber_is_the_lowest_minimiser(delta: float, weigh: bool) -> None:
    """As bisection finds it, in a few rounds: of smooth targets, of counts, of two values whose
    middle is flat, of one value, of a far outlier, and of huge ones."""
    n = 60
    columns = [
        *(draw(n, seed=3), (10 * draw(n, seed=4)).round(), 10.0 * (torch.arange(n) % 2)),
        *(torch.full((n,), 7.0), draw(n, seed=5) * 1e-3 + 1e6 * (torch.arange(n) == 9)),
        draw(n, seed=6) * 1e30,
    ]
    target = torch.stack(columns, -1)
    weights = draw(n, seed=7).abs().unsqueeze(-1).expand_as(target) if weigh else None
    found = best_constant(
        spec.Huber(kind="huber", delta=delta), target.shape[1], target, weights=weights
    )
    every = torch.ones_like(target) if weights is None else weights
    size = target.double().amax(0) - target.double().amin(0)
    gap = (found[0] - bisected(target.double(), delta, every.double())).abs()
    assert (gap <= 1e-10 * size).all(), gap / size
