"""The loop: epochs of steps in a seeded order, evaluation, gates; and all of its state."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from job import balance, baseline, optimizer
from job.data import Dataset
from job.evaluate import Losses, batches, evaluate
from job.events import Alarm, Epoch, EpochTask, GateResult
from job.gates import Verdict
from job.ledger import Ledger
from job.model import Jade
from job.spec import JobSpec
from job.step import Stepper
from job.tasks import TaskLoss

Emit = Callable[[BaseModel], None]


class Interrupted(Exception):
    """The run was asked to stop; its state is whole and can go on."""


@dataclass
class Position:
    """Where a run is, and what it must remember of where it was."""

    step: int = 0
    """Steps taken."""
    epoch: int = 0
    """Epochs finished, evaluation included."""
    batch: int = 0
    """Batches done of the epoch after that."""
    seconds: float = 0.0
    """Training time, over all attempts."""
    first: dict[str, list[float]] = field(default_factory=dict)
    """Losses [K] in original units after epoch 1, by split."""
    best: dict[str, float] = field(default_factory=dict)
    """Lowest validation score so far, by what it scores: a task or `*`."""
    best_epoch: dict[str, int] = field(default_factory=dict)
    """When that was."""
    fallbacks: int = 0
    """Steps at which the balancer fell back, as far as an alarm has told."""


class Training:
    """A network in training. `state` and `restore` hold all that the next step depends on."""

    def __init__(self, spec: JobSpec, data: Dataset) -> None:
        self.spec, self.data = spec, data
        self.device = settle(spec)
        self.names = spec.task_names
        torch.manual_seed(spec.seed)
        model = Jade(spec.model, data.train.features.shape[2], spec.tasks)
        losses = [TaskLoss(task) for task in spec.tasks]
        for loss, head in zip(losses, model.heads, strict=True):
            target = data.train.targets[loss.task.name]
            loss.fit(target)
            if spec.model.init.heads == "target_mean":
                head.output.bias.data.copy_(loss.resting_output(target))
        self.baselines = [
            baseline.fit(task, *(s.targets[task.name] for s in (data.train, data.validation)))
            for task in spec.tasks
        ]
        steps = data.train.features.shape[1]
        sizes = [t.outputs * (steps if t.level == "step" else 1) for t in spec.tasks]
        balancer = balance.make(spec.balance, self.names, sizes)
        self.stepper = Stepper(model, losses, balancer, spec.train.clip, spec.train.precision).to(
            self.device
        )
        self.optimizer = optimizer.build(spec.optimizer, spec.balance, self.stepper)
        self.losses = losses
        self.ledger = Ledger(self.names)
        self.verdict = Verdict(spec.gates, spec.train.epochs)
        self.at = Position()
        self.batches_per_epoch = math.ceil(len(data.train.features) / spec.train.batch_size)
        self.total_steps = self.batches_per_epoch * spec.train.epochs

    def run(self, emit: Emit, save: Callable[[], None], stopping: Callable[[], bool]) -> None:
        """Train to the end. `save` is called where the spec asks for a checkpoint.

        Raises NotFinite where a loss or gradient is not finite, and Interrupted after the step
        in which `stopping` became true.
        """
        while not self.finished:
            begun = time.perf_counter()
            for features, targets in self._rest_of_epoch():
                self._step(features, targets)
                every = self.spec.checkpoint.every_steps
                saving = every is not None and self.at.step % every == 0
                stop = stopping()
                if saving or stop or self.at.step % self.spec.log.every == 0:
                    self._fetch(emit)
                if saving or stop:
                    begun = self._spent(begun)
                if stop:
                    raise Interrupted
                if saving and self.at.batch < self.batches_per_epoch:
                    save()
            self._fetch(emit)
            trained = time.perf_counter() - begun
            self._end_epoch(emit, begun, trained)
            every = self.spec.checkpoint.every_epochs
            if self.finished or (every is not None and self.at.epoch % every == 0):
                save()

    @property
    def finished(self) -> bool:
        """Whether no step is left to take."""
        stop = self.spec.train.early_stop
        if (
            stop is not None
            and self.at.epoch - self.at.best_epoch.get(stop.task, 0) >= stop.patience
        ):
            return self.at.epoch > 0
        return self.at.epoch >= self.spec.train.epochs

    def _rest_of_epoch(self) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """The batches still to do. The order is a function of seed and epoch, so none is kept."""
        generator = torch.Generator().manual_seed(self.spec.seed * 1_000_003 + self.at.epoch)
        order = torch.randperm(len(self.data.train.features), generator=generator)
        size = self.spec.train.batch_size
        self.stepper.train()
        self.ledger.start_clock()
        return batches(
            self.data.train, order[self.at.batch * size :], size, self.losses, self.device
        )

    def _step(self, features: Tensor, targets: list[Tensor]) -> None:
        scheduled = optimizer.factor(self.spec.train.schedule, self.at.step, self.total_steps)
        lr = optimizer.set_rate(self.optimizer, scheduled)
        self.at.step += 1
        self.at.batch += 1
        every = self.spec.log.audit_every
        audit = every > 0 and (self.at.step - 1) % every == 0
        measured = self.stepper(features, targets, self.optimizer, audit)
        self.ledger.collect(self.at.step, self.at.epoch + 1, lr, measured)

    def _fetch(self, emit: Emit) -> None:
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

    def _spent(self, begun: float) -> float:
        """Book the time since `begun`; returns now."""
        now = time.perf_counter()
        self.at.seconds += now - begun
        return now

    def _end_epoch(self, emit: Emit, begun: float, trained: float) -> None:
        at, done = self.at, self.at.batch
        at.epoch, at.batch = at.epoch + 1, 0
        splits = {
            name: evaluate(self.stepper.model, self.losses, split, self.device, most)
            for name, split, most in (
                ("train", self.data.train, self.spec.train.evaluate),
                ("validation", self.data.validation, len(self.data.validation.features)),
            )
        }
        if at.epoch == 1:
            at.first = {name: losses.original for name, losses in splits.items()}
        self._score(splits["validation"])
        self._spent(begun)
        samples = min(done * self.spec.train.batch_size, len(self.data.train.features))
        epoch = Epoch(
            epoch=at.epoch,
            step=at.step,
            tasks=self._epoch_tasks(splits["train"], splits["validation"]),
            seconds=time.perf_counter() - begun,
            samples_per_second=samples / trained,
        )
        emit(epoch)
        self.ledger.begin_epoch()
        for result in self.verdict.read(epoch, self.finished):
            emit(result)

    def _score(self, validation: Losses) -> None:
        """Note the lowest validation score of what the spec watches."""
        relative = [
            now / first if first else now
            for now, first in zip(validation.original, self.at.first["validation"], strict=True)
        ]
        scores = dict(zip(self.names, validation.original, strict=True))
        scores["*"] = sum(relative) / len(relative)
        stop = self.spec.train.early_stop
        for watched in {self.spec.checkpoint.best_of, stop.task if stop else None} - {None}:
            assert watched is not None
            if scores[watched] < self.at.best.get(watched, math.inf):
                self.at.best[watched] = scores[watched]
                self.at.best_epoch[watched] = self.at.epoch

    def _epoch_tasks(self, train: Losses, validation: Losses) -> dict[str, EpochTask]:
        means = self.ledger.means()
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
            "position": asdict(self.at),
            "steps_in_means": self.ledger.count,
            "gates": {i: r.model_dump() for i, r in self.verdict.results.items()},
        }
        return tensors, values

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
        self.at = Position(**values["position"])
        self.verdict.results = {
            int(i): GateResult.model_validate(r) for i, r in values["gates"].items()
        }


def settle(spec: JobSpec) -> torch.device:
    """Set threads and determinism for this process; the device to train on."""
    wanted = spec.train.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if spec.train.threads is not None:
        torch.set_num_threads(spec.train.threads)
    if spec.train.deterministic:
        # cuBLAS reads it when it starts; without it deterministic matrix products raise.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(spec.train.deterministic)
    torch.backends.cudnn.deterministic = spec.train.deterministic
    return torch.device(wanted)


def _gain(loss: float, reference: float) -> float:
    """1 − loss / reference; not a number where the reference is 0."""
    return 1 - loss / reference if reference else math.nan
