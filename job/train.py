"""The loop: epochs of steps in a seeded order, evaluation, gates; and all of its state."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pydantic import BaseModel
from pydantic_core import to_json
from torch import Tensor

from job import balance, baseline, optimizer
from job.alarms import Watch, out_of_range
from job.data import Dataset
from job.device import settle
from job.evaluate import Losses, batches, evaluate, evenly_spaced
from job.events import Alarm, Epoch, EpochTask, GateResult
from job.gates import Verdict
from job.ledger import Ledger, NotFinite
from job.model import Jade
from job.position import POSITION, Position
from job.ranks import ALONE, Ranks, Share
from job.spec import JobSpec
from job.step import Stepper
from job.tasks import TaskLoss

Emit = Callable[[BaseModel], None]


class Interrupted(Exception):
    """The run was asked to stop; its state is whole and can go on."""


class Training:
    """A network in training. `state` and `restore` hold all that the next step depends on.

    Every rank has one, and all have the same state, but for the time that they took.
    """

    def __init__(self, spec: JobSpec, data: Dataset, ranks: Ranks = ALONE) -> None:
        self.spec, self.data, self.ranks = spec, data, ranks
        self.device = settle(spec.train)
        self.names = spec.task_names
        torch.manual_seed(spec.seed)
        model = Jade(spec.model, data.train.features.shape[2], spec.tasks)
        losses = [TaskLoss(task) for task in spec.tasks]
        for loss, head in zip(losses, model.heads, strict=True):
            target = data.train.targets[loss.task.name]
            loss.fit(target)
            if spec.model.init.heads == "target_mean":
                head.output.bias.data.copy_(loss.resting_output(target))
        chosen = evenly_spaced(len(data.train.features), spec.train.evaluate)
        self.baselines = []
        for task in spec.tasks:
            y, held_out = (s.targets[task.name] for s in (data.train, data.validation))
            self.baselines.append(baseline.fit(task, y, held_out, measured=y[chosen]))
        train = spec.train
        own = balancer(spec, data)
        stepper = Stepper(model, losses, own, train.clip, train.precision, ranks=ranks)
        self.stepper = stepper.to(self.device)
        self.optimizer = optimizer.build(spec.optimizer, spec.balance, self.stepper)
        self.losses = losses
        self.ledger = Ledger(self.names)
        self.verdict = Verdict(spec.gates, spec.train.epochs)
        self.watch = Watch(spec, self.baselines)
        self.at = Position()
        self.evaluated = 0
        """Batches, in this process."""
        self.booked = time.perf_counter()
        self.batches_per_epoch = math.ceil(len(data.train.features) / spec.train.batch_size)
        self.total_steps = self.batches_per_epoch * spec.train.epochs

    def run(self, emit: Emit, save: Callable[[], None], stopping: Callable[[], bool]) -> None:
        """Train to the end. `save` is called where the spec asks for a checkpoint.

        Raises NotFinite where a loss or gradient is not finite, and Interrupted after the step
        in which `stopping` became true on any rank.
        """
        self.booked = time.perf_counter()
        if self.at.step == 0:
            for alarm in out_of_range(self.losses, self.data.train.targets):
                emit(alarm)
        while not self.finished:
            for features, targets in self._rest_of_epoch():
                self._step(features, targets)
                saving = _due(self.spec.checkpoint.every_steps, self.at.step)
                stop = self.ranks.agree(stopping())
                if saving or stop or _due(self.spec.log.every, self.at.step):
                    self.fetch(emit)
                if stop:
                    raise Interrupted
                if saving and self.at.batch < self.batches_per_epoch:
                    save()
                    self.ledger.start_clock()
            self.fetch(emit)
            self._end_epoch(emit)
            kept = self.spec.checkpoint
            if (
                self.finished
                or _due(kept.every_epochs, self.at.epoch)
                or _due(kept.every_steps, self.at.step)
                or self.at.best_epoch.get(kept.best_of or "") == self.at.epoch
            ):
                save()

    @property
    def finished(self) -> bool:
        """Whether no step is left to take."""
        stop, epoch = self.spec.train.early_stop, self.at.epoch
        stale = stop is not None and epoch - self.at.best_epoch.get(stop.task, 0) >= stop.patience
        return stale or epoch >= self.spec.train.epochs

    def _rest_of_epoch(self) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """The batches still to do. The order is a function of seed and epoch, so none is kept."""
        generator = torch.Generator().manual_seed(self.spec.seed * 1_000_003 + self.at.epoch)
        order = torch.randperm(len(self.data.train.features), generator=generator)
        size = self.spec.train.batch_size
        self.stepper.train()
        self.ledger.start_clock()
        rest = order[self.at.batch * size :]
        return batches(self.data.train, rest, size, self.losses, self.device, self.ranks)

    def _step(self, features: Tensor, targets: list[Tensor]) -> None:
        scheduled = optimizer.factor(self.spec.train.schedule, self.at.step, self.total_steps)
        lr = optimizer.set_rate(self.optimizer, scheduled)
        share = self._share()
        self.at.step += 1
        self.at.batch += 1
        every = self.spec.log.audit_every
        audit = every > 0 and (self.at.step - 1) % every == 0
        measured = self.stepper(features, targets, self.optimizer, audit, share)
        self.ledger.collect(self.at.step, self.at.epoch + 1, lr, measured)

    def _share(self) -> Share | None:
        """Its part of the next batch; None for a process alone."""
        if self.ranks.world == 1:
            return None
        size = self.spec.train.batch_size
        left = len(self.data.train.features) - self.at.batch * size
        return self.ranks.share(min(size, left))

    def fetch(self, emit: Emit) -> None:
        """Emit the steps that the device has not told of yet; raises NotFinite."""
        try:
            for event in self.ledger.fetch():
                emit(event)
                if event.skipped:
                    emit(
                        Alarm(
                            kind="overflow",
                            step=event.step,
                            message="a gradient overflowed in fp16; the step was skipped and the "
                            "loss scale halved",
                        )
                    )
        except NotFinite as fault:
            self.at.step = fault.step - 1  # nor was any update after it applied
            raise
        finally:
            self._book()
        self._tell_fallbacks(emit)

    def _tell_fallbacks(self, emit: Emit) -> None:
        fallbacks = dict(self.stepper.balancer.named_buffers()).get("fallbacks")
        if fallbacks is not None and (now := int(fallbacks)) > self.at.fallbacks:
            told, self.at.fallbacks = self.at.fallbacks, now
            emit(
                Alarm(
                    kind="balancer_fallback",
                    step=self.at.step,
                    message=f"the balancer found no weights at {now - told} steps since the "
                    "last fetch; all tasks weighed the same there",
                )
            )

    def _book(self) -> None:
        """Count the time since it was last counted."""
        now = time.perf_counter()
        self.at.seconds += now - self.booked
        self.at.epoch_seconds += now - self.booked
        self.booked = now

    def _end_epoch(self, emit: Emit) -> None:
        at = self.at
        trained = at.epoch_seconds
        at.epoch, at.batch = at.epoch + 1, 0
        splits = {
            name: evaluate(
                self.stepper.model, self.losses, split, self.device, most, self._tick, self.ranks
            )
            for name, split, most in (
                ("train", self.data.train, self.spec.train.evaluate),
                ("validation", self.data.validation, len(self.data.validation.features)),
            )
        }
        stop = self.spec.train.early_stop
        at.remember(self.names, splits, {self.spec.checkpoint.best_of, stop.task if stop else None})
        self._book()
        epoch = Epoch(
            epoch=at.epoch,
            step=at.step,
            tasks=self._epoch_tasks(splits["train"], splits["validation"]),
            seconds=at.epoch_seconds,
            samples_per_second=len(self.data.train.features) / trained,
        )
        at.epoch_seconds = 0.0
        emit(epoch)
        for alarm in self.watch.look(epoch, at):
            emit(alarm)
        self.ledger.begin_epoch()
        for result in self.verdict.read(epoch, self.finished):
            emit(result)

    def _tick(self) -> None:
        self.evaluated += 1

    def _epoch_tasks(self, train: Losses, validation: Losses) -> dict[str, EpochTask]:
        means, cosines = self.ledger.means(), self.ledger.cosines()
        first = self.at.first
        return {
            name: EpochTask(
                train_loss=train.transformed[k],
                val_loss=validation.transformed[k],
                train_loss_original=train.original[k],
                val_loss_original=validation.original[k],
                drop=_gain(train.original[k], first["train"][k]),
                val_drop=_gain(validation.original[k], first["validation"][k]),
                skill=_gain(train.original[k], self.baselines[k].strongest("train")),
                val_skill=_gain(validation.original[k], self.baselines[k].strongest("validation")),
                cosines=cosines[name],
                saturated=train.saturated[k],
                **means[name],
            )
            for k, name in enumerate(self.names)
        }

    # --- state: what is not here does not survive a resume --------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors on their device, not copied, and JSON values. Call between two steps."""
        assert not self.ledger.waiting
        tensors = dict(self.stepper.state_dict())
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in moments.items()}
        tensors["ledger.sums"] = self.ledger.sums
        tensors["generator.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["generator.cuda"] = torch.cuda.get_rng_state(self.device)
        values = {
            "position": self.at,
            "steps_in_means": self.ledger.count,
            "gates": {i: result.model_dump() for i, result in self.verdict.results.items()},
        }
        return tensors, json.loads(to_json(values, inf_nan_mode="strings"))

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from what `state` returned, in this or another process."""
        mine = self.stepper.state_dict()
        self.stepper.load_state_dict({name: tensors[name] for name in mine})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, i, key = name.split(".")
                moments.setdefault(int(i), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.ledger.sums.copy_(tensors["ledger.sums"])
        self.ledger.count = values["steps_in_means"]
        torch.set_rng_state(tensors["generator.cpu"])
        if self.device.type == "cuda" and "generator.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["generator.cuda"], self.device)
        self.at = POSITION.validate_python(values["position"])
        self.verdict.results = {
            int(i): GateResult.model_validate(r) for i, r in values["gates"].items()
        }


def balancer(spec: JobSpec, data: Dataset) -> balance.Balancer:
    """The spec's balancer; raises InputError where torchjd is missing or knows no such method."""
    steps = data.train.features.shape[1]
    sizes = [t.outputs * (steps if t.level == "step" else 1) for t in spec.tasks]
    return balance.make(spec.balance, spec.task_names, sizes)


def _due(every: int | None, count: int) -> bool:
    return every is not None and count % every == 0


def _gain(loss: float, reference: float) -> float:
    """1 − loss / reference; not a number where the reference is 0."""
    return 1 - loss / reference if reference else math.nan
