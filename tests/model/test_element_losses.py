"""Each loss beside an independent computation, its slopes beside finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics as sk
from torch import Tensor

from job import spec
from job.model.losses import TaskLoss
from job.model.losses.element_losses import element_losses, mean_loss, sample_losses
from job.spec.losses import NATS, SECTIONS
from tests.support.losses import LOSSES, task_of
from tests.support.nets import batch


def drawn(name: str, level: str = "step", seed: int = 0, outputs: int = 3) -> tuple[Tensor, Tensor]:
    """Outputs [5, 6, W] or [5, W] float64 and a target of a task with that loss."""
    made = task_of(name, level, outputs)
    (target,) = batch([made], seed=seed).targets
    draw = torch.Generator().manual_seed(seed + 1)
    steps = target.shape[1:2] if level == "step" else ()
    shape = (len(target), *steps, made.head_width)
    return 2 * torch.randn(shape, generator=draw, dtype=torch.float64), target


def loss_of(name: str) -> spec.Loss:
    return task_of(name).loss


# --- definitions --------------------------------------------------------------------------------


def test_focal_is_its_definition() -> None:
    """Each class's term is −(1 − p)^γ ln p; with smoothing their mean counts too (Lin et al. 2017,
    eq. 4). Without focus it is torch's cross-entropy with label smoothing."""
    logits, classes = drawn("focal")
    p = logits.softmax(-1)
    terms = -((1 - p) ** 2) * p.log()
    share = 0.9 * F.one_hot(classes, 3) + 0.1 / 3
    close = torch.testing.assert_close
    close(element_losses(loss_of("focal"), logits, classes), (share * terms).sum(-1))
    barely = spec.CrossEntropy(kind="cross_entropy", focal=1e-12, smoothing=0.1)
    smoothed = element_losses(loss_of("smoothed"), logits, classes)
    close(element_losses(barely, logits, classes), smoothed)
    expected = F.cross_entropy(
        logits.movedim(-1, 1), classes, label_smoothing=0.1, reduction="none"
    )
    close(smoothed, expected)


def test_binary_focal_is_its_definition() -> None:
    """The same for 0 and 1; smoothed 0/1 targets are those of two smoothed classes."""
    logits, bits = drawn("binary_focal")
    p = torch.where(bits > 0, logits.sigmoid(), 1 - logits.sigmoid())
    close = torch.testing.assert_close
    close(element_losses(loss_of("binary_focal"), logits, bits), -((1 - p) ** 0.5) * p.log())
    two = torch.stack([torch.zeros_like(logits), logits], 1)
    bits = bits.double()
    expected = F.cross_entropy(two, bits.long(), label_smoothing=0.2, reduction="none")
    close(element_losses(loss_of("binary_smoothed"), logits, bits), expected)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_ordinal_is_the_likelihood_of_its_probabilities(classes: int) -> None:
    """The probabilities are a distribution whose parts above k are products of the conditional ones
    (Shi, Cao and Raschka 2021, eq. 4); the loss is their cross-entropy, by scikit-learn."""
    logits, target = drawn("ordinal", "window", outputs=classes)
    made = TaskLoss(task_of("ordinal", outputs=classes))
    p = made.predict(logits)
    assert p.shape == (5, classes)
    torch.testing.assert_close(p.sum(-1), torch.ones(5, dtype=torch.float64))
    for k in range(classes - 1):
        above = logits[:, : k + 1].sigmoid().prod(-1)
        torch.testing.assert_close(p[:, k + 1 :].sum(-1), above)
    expected = sk.log_loss(target, p.numpy(), labels=list(range(classes)))
    assert mean_loss(made.task.loss, logits, target).item() == pytest.approx(expected)


def test_pinball_is_scikit_learns() -> None:
    """Mean over levels and outputs of scikit-learn's; the median's is half the absolute error."""
    prediction, target = drawn("quantile", "window")
    loss = loss_of("quantile")
    assert isinstance(loss, spec.Quantile)
    each = [
        sk.mean_pinball_loss(target, prediction.view(5, 3, 3)[:, :, i], alpha=level)
        for i, level in enumerate(loss.levels)
    ]
    assert mean_loss(loss, prediction, target).item() == pytest.approx(np.mean(each))
    median = spec.Quantile(kind="quantile", levels=(0.5,))
    half = (prediction[:, :3] - target).abs() / 2
    torch.testing.assert_close(element_losses(median, prediction[:, :3], target), half)


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_poisson_is_half_the_deviance(scale: float) -> None:
    """Scikit-learn's mean Poisson deviance, halved, of few counts and of many; its slope is that of
    torch's negative log-likelihood, so training is the same."""
    log_rate, counts = drawn("poisson_nll")
    log_rate, counts = log_rate.float() + math.log(scale), counts * scale
    loss = loss_of("poisson_nll")
    expected = sk.mean_poisson_deviance(counts.flatten(), log_rate.double().exp().flatten()) / 2
    assert mean_loss(loss, log_rate, counts).item() == pytest.approx(expected, rel=1e-4)
    leaf = log_rate.requires_grad_()
    (mine,) = torch.autograd.grad(mean_loss(loss, leaf, counts), leaf)
    (theirs,) = torch.autograd.grad(F.poisson_nll_loss(leaf, counts), leaf)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6 * scale)


def test_poisson_is_exact_near_a_perfect_rate() -> None:
    """Of a million counts, the small loss of a rate off by a thousandth is there in float32."""
    counts = torch.tensor([[1e6]])
    log_rate = counts.log() + 1e-3
    expected = sk.mean_poisson_deviance([1e6], [log_rate.double().exp().item()]) / 2
    assert mean_loss(loss_of("poisson_nll"), log_rate, counts).item() == pytest.approx(
        expected, rel=2e-3
    )


def test_gaussian_is_the_likelihood() -> None:
    """The negative log-density of the predicted mean and deviation, above that of the target
    itself with the deviation `floor`; a transformed target has the same loss in both units."""
    outputs, target = drawn("gaussian_nll", "window")
    made = TaskLoss(task_of("gaussian_nll", transform={"kind": "scale", "by": 20.0}))
    loss = made.task.loss
    assert isinstance(loss, spec.GaussianNLL)
    target = 20 * target.double()
    p = made.predict(outputs).view(5, 3, 2)
    density = torch.distributions.Normal(p[..., 0], p[..., 1]).log_prob(target)
    sure = torch.distributions.Normal(0.0, 20 * loss.floor).log_prob(torch.tensor(0.0))
    transformed, original = made(outputs, target)
    assert transformed == original
    assert transformed.item() == pytest.approx((sure - density).mean().item(), rel=1e-5)
    mean, raw = outputs.view(5, 3, 2).unbind(-1)
    theirs = F.gaussian_nll_loss(mean, target / 20, raw.exp() + loss.floor**2)
    expected = theirs.item() - math.log(loss.floor)
    assert transformed.item() == pytest.approx(expected, rel=1e-5)


def test_pairwise_is_the_mean_over_pairs() -> None:
    """Of a list: the mean of ln(1 + exp(−difference)) over its pairs, by hand; of two relevances
    it counts as many pairs in order as the area under the ROC curve; equal scores have ln 2."""
    scores, relevance = drawn("ranking", "window", outputs=6)
    relevance = relevance.round()
    found = element_losses(loss_of("ranking"), scores, relevance)
    for s, y, mine in zip(scores.tolist(), relevance.tolist(), found.tolist(), strict=True):
        pairs = [(i, j) for i in range(6) for j in range(6) if y[i] > y[j]]
        expected = np.mean([math.log1p(math.exp(s[j] - s[i])) for i, j in pairs])
        assert mine == pytest.approx(expected)
    equal = element_losses(loss_of("ranking"), torch.zeros(5, 6), relevance)
    torch.testing.assert_close(equal, torch.full((5,), math.log(2)))
    tied = element_losses(loss_of("ranking"), scores, torch.ones(5, 6))
    assert not tied.any()


def test_items_without_a_relevance_are_no_part_of_a_list() -> None:
    """The loss is that of the shorter list, and their scores have no slope."""
    scores, relevance = drawn("ranking", "window", outputs=6)
    made = TaskLoss(task_of("ranking", outputs=6, missing="skip"))
    holed = relevance.clone()
    holed[:, [1, 4]] = torch.nan
    wild = scores.clone()
    wild[:, 1], wild[:, 4] = torch.inf, torch.nan
    wild.requires_grad_()
    loss, _ = made(wild, holed)
    kept = [0, 2, 3, 5]
    expected = mean_loss(made.task.loss, scores[:, kept].float(), relevance[:, kept])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert wild.grad is not None
    assert wild.grad[:, kept].abs().min() > 0
    assert not wild.grad[:, [1, 4]].any()


# --- all losses ---------------------------------------------------------------------------------


def test_every_kind_of_loss_is_here() -> None:
    """So that a new one is held to what follows."""
    assert {loss["kind"] for loss in LOSSES.values()} == SECTIONS.keys()
    assert {"cross_entropy", "poisson_nll", "ranking"} < set(NATS)
    assert {"mse", "quantile"}.isdisjoint(NATS)


@pytest.mark.parametrize("name", LOSSES)
def test_slopes_are_those_of_finite_differences(name: str) -> None:
    """In float64, away from kinks."""
    outputs, target = drawn(name)
    target = target.double() if target.is_floating_point() else target
    loss = loss_of(name)
    assert torch.autograd.gradcheck(
        lambda x: element_losses(loss, x, target), outputs.requires_grad_()
    )


@pytest.mark.parametrize("level", ["window", "step"])
@pytest.mark.parametrize("name", LOSSES)
def test_elements_samples_and_mean_agree(name: str, level: str) -> None:
    """A loss for each element, none below 0; their mean is the loss of all."""
    outputs, target = drawn(name, level)
    loss = loss_of(name)
    each = element_losses(loss, outputs, target)
    assert each.shape == (target.shape[:-1] if loss.whole else target.shape)
    assert each.min() >= 0
    torch.testing.assert_close(sample_losses(loss, outputs, target), each.reshape(5, -1).mean(1))
    torch.testing.assert_close(mean_loss(loss, outputs, target), each.mean())


@pytest.mark.parametrize("size", [0.0, 15.0, 40.0, 1e4])
@pytest.mark.parametrize("name", LOSSES)
def test_far_outputs_have_finite_losses_and_slopes(name: str, size: float) -> None:
    """In float32, for outputs of ± any size."""
    outputs, target = drawn(name)
    far = (outputs.sign() * size).float().requires_grad_()
    made = TaskLoss(task_of(name, "step"))
    loss, original = made(far, target)
    loss.backward()
    assert loss.isfinite()
    assert original.isfinite()
    assert far.grad is not None
    assert far.grad.isfinite().all()
    assert made.predict(far.detach()).isfinite().all()
