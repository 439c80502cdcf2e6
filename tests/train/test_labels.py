"""Missing labels and weights: a step is that of the labelled elements alone, computed directly."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from job import spec
from job.events import Step
from job.model.losses import TaskLoss
from job.model.losses.element_losses import element_losses
from job.model.skill import measure_skill
from job.spec.losses import SECTIONS
from job.train.evaluate import evaluate
from job.train.trainer import Trainer
from tests.support.nets import Batch, Net, batch, task
from tests.support.tiny_job import PARTIAL, SMALL, TRAIN, VALIDATION, State, Trained, job, write

KINDS = tuple(SECTIONS)
SCALED: dict[str, Any] = {"transform": {"kind": "scale", "by": 2.0}, "activation": "tanh"}
CPU = torch.device("cpu")


def partial(name: str, level: str, kind: str, **more: Any) -> spec.Task:
    outputs = {"cross_entropy": 3, "ordinal": 3, "ranking": 4, "mae": 1, "huber": 1}.get(kind, 2)
    return task(name, level, kind, outputs, missing="skip", **more)


def without(y: Tensor, missing: Tensor) -> Tensor:
    """The target without the labels of some elements."""
    return torch.where(missing, -1 if y.dtype == torch.int64 else torch.nan, y)


def thinned(at: Batch, share: float = 0.5, seed: int = 0) -> Batch:
    """The batch without some of its labels; each task keeps one."""
    draw = torch.Generator().manual_seed(seed)
    targets = []
    for y in at.targets:
        missing = torch.rand(y.shape, generator=draw) < share
        missing.view(-1)[0] = False
        targets.append(without(y, missing))
    return Batch(at.inputs, targets)


def mean_of_labelled(loss: TaskLoss, outputs: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean over the elements that have labels, which are gathered first."""
    known = y >= 0 if y.dtype == torch.int64 else ~y.isnan()
    section = loss.task.loss
    each = weights[known] if weights.shape == known.shape else weights
    if section.kind == "cross_entropy":
        losses = F.cross_entropy(outputs[known], y[known], reduction="none")
    elif section.kind == "ordinal":
        losses = element_losses(section, outputs[known], y[known])
    elif section.kind == "ranking":
        lists = [
            element_losses(section, s[None, kept], target[None, kept])[0]
            for s, target in zip(outputs.flatten(0, -2), y.flatten(0, -2), strict=True)
            if (kept := ~target.isnan()).sum() > 1
        ]
        losses, each = torch.stack(lists), weights.flatten()[(known.sum(-1) > 1).flatten()]
    elif section.kind in ("quantile", "poisson_nll", "gaussian_nll"):
        of_each = outputs.unflatten(-1, (y.shape[-1], -1))
        losses = element_losses(section, of_each[known], y[known].unsqueeze(-1)).squeeze(-1)
    elif section.kind == "binary_cross_entropy":
        losses = F.binary_cross_entropy_with_logits(outputs[known], y[known], reduction="none")
    else:
        gap = loss.activate(outputs)[known] - ((y - loss.shift) / loss.scale)[known]
        losses = {
            "mse": gap.square(),
            "mae": gap.abs(),
            "huber": torch.where(gap.abs() < 1, gap.square() / 2, gap.abs() - 0.5),
        }[section.kind]
    return (losses * each).sum() / each.sum()


def assert_step_is_direct(net: Net, at: Batch, of_samples: list[Tensor | None]) -> None:
    """Losses, Gram matrix and every gradient are those of the gathered elements."""
    model = copy.deepcopy(net.model)
    torch.manual_seed(3)
    z = model.represent(at.inputs)
    leaf = z.detach().requires_grad_()
    outputs = model.outputs(model.read_steps(leaf)[0], [leaf.mean(1)] * model.is_step.count(False))
    losses = []
    for loss, out, y, given in zip(
        net.stepper.of_tasks, outputs, at.targets, of_samples, strict=True
    ):
        weights = torch.ones(loss.labelled(y).shape)
        if given is not None:
            weights = weights * given.view(-1, *[1] * (weights.dim() - 1))
        if loss.task.class_weight is not None:
            table = torch.tensor(loss.task.class_weight)
            weights = weights * table[y.nan_to_num().clamp(min=0).long()]
        losses.append(mean_of_labelled(loss, out, y, weights))
    rows = [torch.autograd.grad(x, leaf, retain_graph=True)[0] for x in losses]
    flat = torch.stack([row.flatten() for row in rows])
    torch.manual_seed(3)
    measured = net.stepper(at.inputs, at.targets, net.optimizer, False, None, of_samples)
    close = torch.testing.assert_close
    close(measured.losses, torch.stack(losses), rtol=2e-5, atol=1e-7)
    close(measured.gram, flat @ flat.T, rtol=1e-4, atol=1e-7)
    torch.stack(losses).sum().backward()  # every weight is 1
    z.backward(leaf.grad)
    for mine, theirs in zip(net.model.parameters(), model.parameters(), strict=True):
        assert mine.grad is not None
        close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-7)
    assert measured.labelled is not None
    counted = zip(net.stepper.of_tasks, measured.labelled.tolist(), at.targets, strict=True)
    for loss, count, y in counted:
        known = y >= 0 if y.dtype == torch.int64 else ~y.isnan()
        lists = loss.task.loss.kind == "ranking"
        assert count == ((known.sum(-1) > 1) if lists else known).sum()


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("level", ["window", "step"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_that_of_the_labelled_elements(kind: str, level: str, count: int) -> None:
    """Loss, Gram matrix and gradients of trunk and heads, for every loss beside others."""
    more = SCALED if kind in ("huber", "mse", "mae") else {}
    other = "step" if level == "window" else "window"
    tasks = [
        partial("first", level, kind, **more),
        partial("second", other, "cross_entropy"),
        partial("third", level, "mse"),
        partial("fourth", other, "binary_cross_entropy"),
    ][:count]
    assert_step_is_direct(Net(tasks), thinned(batch(tasks, seed=count)), [None] * count)


@pytest.mark.parametrize("level", ["window", "step"])
def test_a_step_with_weights_is_their_weighted_mean(level: str) -> None:
    """Classes and samples with weights, labels missing besides."""
    tasks = [
        partial("kind", level, "cross_entropy", class_weight=(0.5, 2.0, 3.0)),
        partial("bits", level, "binary_cross_entropy", class_weight=(1.0, 4.0)),
        partial("level", level, "huber", sample_weight="w"),
        partial("both", level, "cross_entropy", class_weight=(1.0, 2.0, 3.0), sample_weight="w"),
        partial("grade", level, "ordinal", class_weight=(1.0, 2.0, 3.0), sample_weight="w"),
        partial("order", level, "ranking", sample_weight="w"),
        partial("range", level, "quantile", sample_weight="w"),
        partial("normal", level, "gaussian_nll", sample_weight="w"),
    ]
    given = torch.tensor([0.5, 1.0, 0.0, 2.0, 3.0])
    at = thinned(batch(tasks), 0.3)
    for y in at.targets[2:]:  # weight 0 counts as no label
        y[2] = -1 if y.dtype == torch.int64 else torch.nan
    assert_step_is_direct(Net(tasks), at, [None, None, *[given] * 6])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_at_a_missing_label_reaches_a_gradient(kind: str) -> None:
    """Whatever the outputs are where labels are missing, infinite or NaN, gradients are finite."""
    loss = TaskLoss(partial("y", "step", kind))
    at = thinned(batch([loss.task]))
    (y,) = at.targets
    known = y >= 0 if kind == "cross_entropy" else ~y.isnan()
    width = loss.task.head_width
    outputs = torch.randn(5, 6, width)
    known = known.view(5, 6, -1)
    known = known.repeat_interleave(width // known.shape[-1], -1)
    wild = torch.where(known, outputs, torch.inf).requires_grad_()
    transformed, original = loss(wild, y)
    transformed.backward()
    assert transformed.isfinite()
    assert original.isfinite()
    assert wild.grad is not None
    assert wild.grad.isfinite().all()
    assert not wild.grad[~known].any()


BALANCERS: dict[str, dict[str, Any]] = {
    "uncertainty": {"kind": "uncertainty", "lr": 0.1},
    "gradnorm": {"kind": "gradnorm"},
    **{m: {"kind": "torchjd", "method": m} for m in ("IMTLL", "UW", "FAMO", "NashMTL")},
}


@pytest.mark.parametrize("name", BALANCERS)
def test_a_batch_without_labels_leaves_the_task_alone(name: str) -> None:
    """Its loss and gradients are 0, what the balancer knows of it stays bit for bit, Adam's moments
    too, and the others go on learning."""
    tasks = [
        partial("a", "window", "mse"),
        partial("b", "step", "mse"),
        partial("c", "step", "mae"),
    ]
    net = Net(tasks, BALANCERS[name], clip=1.0)
    for i in range(3):
        net.step(batch(tasks, seed=i))
    known: dict[str, Tensor] = dict(net.stepper.balancer.named_parameters())
    known |= {n: b for n, b in net.stepper.balancer.named_buffers() if b.shape[-1:] == (3,)}
    for p in net.stepper.balancer.parameters():
        moments = net.optimizer.state[p]
        known |= {m: moments[m] for m in ("exp_avg", "exp_avg_sq")}
    before = {n: each.detach().clone() for n, each in known.items()}
    at = batch(tasks, seed=9)
    at.targets[1].fill_(torch.nan)
    measured = net.step(at)
    assert measured.losses[1] == measured.originals[1] == measured.head_norms[1] == 0
    assert not measured.gram[1].any()
    assert not net.model.heads[1].output.weight.grad.any()  # type: ignore[union-attr]
    assert measured.weights.isfinite().all()
    assert measured.labelled is not None
    assert measured.labelled.tolist() == [10, 0, 30]
    for n, each in known.items():
        assert torch.equal(each[..., 1], before[n][..., 1]), n
    assert any(not torch.equal(each[..., 0], before[n][..., 0]) for n, each in known.items())
    assert net.step(batch(tasks, seed=10)).losses.all()


# --- whole runs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data is."""
    return write(tmp_path_factory.mktemp("small")).parent


RUN: dict[str, Any] = {"tasks": PARTIAL, "train.clip": 0.5, "optimizer.lr": 0.02}


def events_of(trained: Trained) -> list[dict[str, Any]]:
    timings = {"step_ms", "seconds", "samples_per_second"}
    events = [e for e in trained.events if e.event != "alarm"]  # told at every fetch
    return [e.model_dump(exclude=timings, exclude_none=True) for e in events]


@pytest.mark.parametrize("balance", [{"kind": "running_mean"}, BALANCERS["uncertainty"]], ids=str)
def test_all_labels_train_as_if_none_could_be_missing(folder: Path, balance: Any) -> None:
    """Bit for bit, with the same events."""
    skipping = [each | {"missing": "skip"} for each in SMALL["tasks"]]
    one = Trained(*job(folder, {"balance": balance}))
    assert one.run()
    other = Trained(*job(folder, {"balance": balance, "tasks": skipping}))
    assert other.run()
    assert events_of(one) == events_of(other)
    mine, theirs = State(one.training), State(other.training)
    for name, tensor in mine.tensors.items():
        assert torch.equal(tensor, theirs.tensors[name]), name


@pytest.mark.parametrize(
    "balance",
    [
        {"kind": "running_mean", "warmup": 3},
        {"kind": "gradnorm"},
        {"kind": "uncertainty", "lr": 0.1},
        {"kind": "torchjd", "method": "FAMO"},
        {"kind": "torchjd", "method": "DWA"},
        {"kind": "torchjd", "method": "PCD"},
    ],
    ids=lambda section: section.get("method", section["kind"]),
)
def test_a_run_with_missing_labels_goes_on_exactly(folder: Path, balance: Any) -> None:
    """Ended after any of some steps, and gone on with from its state, it ends as it would have."""
    edits = RUN | {"balance": balance}
    whole = Trained(*job(folder, edits))
    assert whole.run()
    counts = [[e.tasks[n].labelled for e in whole.steps] for n in ("kind", "down", "pair")]
    assert all(0 in each for each in counts[:2])
    attempt, events = Trained(*job(folder, edits)), []
    for stop in (2, 5, 8):
        assert not attempt.run(stop_at=stop)
        events += events_of(attempt)
        state = State(attempt.training)
        attempt = Trained(*job(folder, edits))
        torch.manual_seed(stop)
        state.into(attempt.training)
    assert attempt.run()
    assert events + events_of(attempt) == events_of(whole)
    mine, theirs = State(attempt.training), State(whole.training)
    for name, tensor in mine.tensors.items():
        torch.testing.assert_close(tensor, theirs.tensors[name], rtol=0, atol=0, equal_nan=True)


def test_counts_of_labels_are_told_of_partial_tasks_alone(folder: Path) -> None:
    """Over an epoch they add up to the labels of the split; other tasks' records do not grow."""
    tasks = [PARTIAL[0], SMALL["tasks"][1], PARTIAL[3]]
    trained = Trained(*job(folder, {"tasks": tasks, "train.epochs": 1}))
    trained.run()
    split = trained.training.data.train
    steps: list[Step] = trained.steps
    assert "labelled" not in steps[0].tasks["level"].model_dump(exclude_none=True)
    for name, known in (
        ("kind", split.targets["kind"] >= 0),
        ("pair", ~split.targets["pair"].isnan()),
    ):
        assert sum(step.tasks[name].labelled or 0 for step in steps) == known.sum()


def test_an_evaluation_is_the_mean_over_the_labels(folder: Path) -> None:
    """On both splits, in both units, with weights, and as the mean of what the samples give; the
    saturated share is one of labels; a skill is that of the labelled samples."""
    training = Trainer(*job(folder, RUN))
    model, losses = training.stepper.model.eval(), training.losses
    for name, split, n in (
        ("train", training.data.train, TRAIN),
        ("validation", training.data.validation, VALIDATION),
    ):
        found = evaluate(model, losses, split, CPU)
        with torch.no_grad():
            outputs = model(split.inputs)
        for k, (loss, out) in enumerate(zip(losses, outputs, strict=True)):
            y = split.targets[loss.task.name]
            weights = loss.weights(y, split.weights.get(loss.task.name))
            assert weights is not None
            direct = mean_of_labelled(loss, out, y, weights)
            assert found.transformed[k] == pytest.approx(direct.item(), rel=1e-5)
            original = (loss.scale.square().item() if loss.task.name == "level" else 1) * direct
            assert found.original[k] == pytest.approx(original.item(), rel=1e-5)
            assert found.by_sample[k].mean() == pytest.approx(original.item(), rel=1e-5)
            counted = training.yardsticks.counted[name][k]
            labelled = weights.reshape(len(y), -1).sum(1) > 0
            assert torch.equal(labelled.nonzero().flatten(), torch.as_tensor(counted.samples))
            mine = found.by_sample[k][labelled] * labelled.sum() / n
            assert mine.mean() == pytest.approx(original.item(), rel=1e-5)
            base = training.yardsticks.baselines[k].by_sample[name]
            assert len(base) == labelled.sum()
            skill = training.yardsticks.skills(name, found)[k]
            if skill is not None:
                assert skill == pytest.approx(measure_skill(mine, base, counted.overlap))
        down = training.losses[2]
        error = outputs[2] - split.targets["down"]
        known = ~error.isnan()
        assert found.saturated[2] == pytest.approx((error[known].abs() > 1).float().mean().item())
        assert down.task.loss.kind == "huber"


def test_a_transform_is_fitted_to_the_labels(folder: Path) -> None:
    """Mean and deviation of the labels alone; balanced weights give each class the same sum."""
    training = Trainer(*job(folder, RUN))
    train, (kind, level, *_) = training.data.train, training.losses
    y = train.targets["level"]
    known = y[~y.isnan()].double()
    assert level.shift.item() == pytest.approx(known.mean().item())
    assert level.scale.item() == pytest.approx(known.std(correction=0).item())
    y = train.targets["kind"]
    weights = kind.weights(y)
    assert weights is not None
    sums = [weights[y == c].sum().item() for c in (0, 1)]
    assert sums == pytest.approx([(y >= 0).sum().item() / 2] * 2)
