"""What `validate` tries on a network or a loss of one's own: what else would fail later.

Some samples of the training split go through, forwards and backwards, on the CPU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from job.data.dataset import Dataset
from job.errors import Fault, InputError
from job.model.metrics import measure, summarize
from job.model.own.code import forget_loaded
from job.model.own.functions import LoadedLoss
from job.model.own.network import OwnForward, OwnNetwork
from job.spec import JobSpec, Python, Task
from job.train.build.losses import task_losses
from job.train.build.network import build_network
from job.train.gradients.ownership import ownership

SOME = 64
"""Samples whose losses are looked at."""


class _Pass(NamedTuple):
    """What a batch gave."""

    outputs: list[Tensor]
    gradients: dict[str, Tensor | None]
    """Of a sum over all outputs, by parameter."""


def check_own(spec: JobSpec, data: Dataset) -> None:
    """Raise InputError with the first fault of a network or a loss of one's own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        for loss in task_losses(spec, data):
            if isinstance(loss.task.loss, LoadedLoss):
                target = loss.transformed(data.train.targets[loss.task.name][:SOME])
                _check_loss(loss.task, loss.task.loss, target)
            if loss.task.own_metrics:
                target = data.train.targets[loss.task.name][:SOME]
                shape = target.shape if loss.task.loss.of_classes else target.shape[:-1]
                outputs = torch.randn(*shape, loss.task.head_width)
                measure(loss.task, summarize(loss.task, loss.predict(outputs)), target)
        if isinstance(spec.model, Python):
            _check_network(spec, data)


def _check_loss(task: Task, loss: LoadedLoss, target: Tensor) -> None:
    """It must have a loss of 0 or above for each element, that depends on this element alone."""

    def fault(found: str, rule: str, remedy: str) -> InputError:
        return InputError([Fault(loss.place, f"{found} of the task {task.name}", rule, remedy)])

    target = torch.where(target.isnan(), 0.0, target)
    prediction = (target + torch.randn_like(target)).requires_grad_()
    losses = loss.of(prediction, target)
    if not losses.isfinite().all() or (losses < 0).any():
        rule = "losses are finite and 0 or above, so that skill has a meaning"
        raise fault(
            "losses below 0, or not finite,", rule, "add what makes that of a perfect prediction 0"
        )
    if not losses.requires_grad:
        rule = "a loss must lead back to the prediction"
        raise fault("losses without a gradient", rule, "compute them by torch, from prediction")
    (gradient,) = torch.autograd.grad(losses.sum(), prediction)
    if not gradient.isfinite().all():
        rule = "it must be finite"
        raise fault("a gradient", rule, "look for sqrt, log or / of 0")
    with torch.no_grad():
        ones = [x.flatten(0, -2)[:SOME].split(1) for x in (prediction, target)]
        shape = (*[1] * (target.dim() - 1), -1)
        alone = [loss.of(p.view(shape), y.view(shape)) for p, y in zip(*ones, strict=True)]
        together = losses.flatten(0, -2)[:SOME]
    if not torch.allclose(torch.cat(alone).view_as(together), together, rtol=1e-4, atol=1e-6):
        rule = "an element's loss depends on this element alone, as labels may miss or weigh"
        raise fault("losses that change with the batch", rule, "use no mean, maximum or sum of it")


def _check_network(spec: JobSpec, data: Dataset) -> None:
    inputs = data.train.inputs_of(torch.arange(min(len(data.train), spec.train.batch_size)))
    model = _built(spec, data, spec.seed)
    ownership(model, inputs)
    first = _trained(model, inputs)
    _check_finite(model, first)
    again = _trained(_built(spec, data, spec.seed), inputs)
    if not _equal(first, again):
        rule = "a run is resumed bit by bit, so what is random comes from torch's generator"
        remedy = "draw by torch alone, not by random, numpy or the time"
        found = "outputs or gradients that differ between two networks of one seed"
        raise InputError([Fault(_place(model), found, rule, remedy)])
    _check_last_batch(model, spec, data)
    _check_state(model, _built(spec, data, spec.seed + 1), inputs)


def _built(spec: JobSpec, data: Dataset, seed: int) -> OwnForward:
    forget_loaded()  # so that what a file draws when it is loaded is drawn anew
    torch.manual_seed(seed)
    model = build_network(spec, data)
    assert isinstance(model, OwnForward)
    return model


def _trained(model: OwnForward, inputs: dict[str, Tensor]) -> _Pass:
    """One pass in training mode, with the generator at a seed."""
    torch.manual_seed(0)
    model.train()
    trained = {name: p for name, p in model.own.named_parameters() if p.requires_grad}
    with model.blamed():
        outputs = model(inputs)
        total = torch.stack([y.float().square().sum() for y in outputs]).sum()
        if not trained or not total.requires_grad:
            return _Pass(outputs, dict.fromkeys(trained))
        grads = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    return _Pass([y.detach() for y in outputs], dict(zip(trained, grads, strict=True)))


def _check_finite(model: OwnForward, done: _Pass) -> None:
    for name, outputs in zip(model.tasks, done.outputs, strict=True):
        if not outputs.isfinite().all():
            found = f"outputs of the task {name} that are not finite"
            rule = "the first batch must give finite numbers"
            place = _place(model)
            raise InputError([Fault(place, found, rule, "look for log, sqrt or / of 0 or less")])


def _check_last_batch(model: OwnForward, spec: JobSpec, data: Dataset) -> None:
    """A BatchNorm fails with a single sample, as an epoch's last batch may have."""
    left = len(data.train) % spec.train.batch_size
    if left == 0:
        return
    try:
        _trained(model, data.train.inputs_of(torch.arange(left)))
    except InputError as error:
        last = f"in an epoch's last batch, which has {left} of {spec.train.batch_size} samples"
        remedy = "choose another train.batch_size, or layers that take so few samples"
        faults = [replace(f, found=f"{f.found} {last}", remedy=remedy) for f in error.faults]
        raise InputError(faults) from error


def _check_state(model: OwnForward, other: OwnForward, inputs: dict[str, Tensor]) -> None:
    """A network that got another's state computes what that one does."""
    with model.code.blamed("state_dict must fit a new network", model.own):
        other.load_state_dict(model.state_dict())
    for mode in (False, True):
        both = []
        for each in (model, other):
            torch.manual_seed(0)
            with torch.no_grad():
                both.append(each.train(mode)(inputs))
        if not all(torch.equal(a, b) for a, b in zip(*both, strict=True)):
            found = "outputs that differ once state_dict is in a new network"
            rule = "a resume has nothing else, so state_dict must hold all that outputs depend on"
            remedy = "register what you compute or count, by register_buffer"
            raise InputError([Fault(_place(model), found, rule, remedy)])


def _place(model: OwnForward) -> str:
    return model.code.place(model.own.head if isinstance(model, OwnNetwork) else model.own)


def _equal(a: _Pass, b: _Pass) -> bool:
    mine, theirs = ([*each.outputs, *each.gradients.values()] for each in (a, b))
    return len(mine) == len(theirs) and all(
        x is y if x is None or y is None else torch.equal(x, y)
        for x, y in zip(mine, theirs, strict=True)
    )
