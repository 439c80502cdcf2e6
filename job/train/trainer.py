"""The training loop: epochs of steps in a seeded order, evaluation and gates, with their state."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from itertools import islice
from typing import Any

import torch
from pydantic import BaseModel
from pydantic_core import to_json
from torch import Tensor

from job.data.dataset import Dataset, Split
from job.distributed.device import prepare_device
from job.distributed.ranks import ALONE, Ranks, Share
from job.events import Alarm, Epoch, FinalTest, GateResult, Origin
from job.events.gates import Verdict
from job.events.worth import worth
from job.model.built_in import BuiltIn
from job.model.losses import TaskLoss
from job.spec import JobSpec, Plateau
from job.spec.training import watched
from job.train.alarms.of_data import data_alarms
from job.train.alarms.of_training import (
    AlarmMonitor,
    balancer_fallback,
    ledger_alarms,
    no_validation_skill,
    not_measurable,
    out_of_range,
    overflow,
    ownership_changed,
)
from job.train.alarms.of_updates import update_sizes
from job.train.at_end import last_events, on_test
from job.train.build.compiled import check_compiler, compile_ahead
from job.train.build.parts import build_parts
from job.train.epoch_tasks import epoch_tasks
from job.train.evaluate import Batch, Losses, batches, evaluate, train_samples
from job.train.gradients.elements import Part
from job.train.gradients.ownership import unforeseen
from job.train.ledger import Ledger, NotFinite
from job.train.resume import Stateful, check_order
from job.train.state import POSITION, TrainState
from job.train.stopping import is_over, undecidable, watched_scores
from job.train.updates.average import Average
from job.train.updates.optimizer import set_rate
from job.train.updates.schedule import note_plateau, schedule_factor, steps_per_epoch
from job.train.yardsticks import Yardsticks

Emit = Callable[[BaseModel], None]
RECHECK = 50
"""Steps between two looks at what the tasks of a network of one's own depend on."""


class Interrupted(Exception):
    """The run was asked to stop. Its state is complete, so that it can be resumed."""


class Trainer:
    """A network in training. `state` and `restore` cover all that the next step depends on.

    Every rank has a trainer. Their states are equal, except for the time that they took.
    """

    def __init__(
        self,
        spec: JobSpec,
        data: Dataset,
        ranks: Ranks = ALONE,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.spec, self.data, self.ranks, self.clock = spec, data, ranks, clock
        self.device = prepare_device(spec.train)
        if spec.train.compile:
            check_compiler(self.device)
        self.names = spec.task_names
        made = build_parts(spec, data, self.device, ranks)
        self.model, self.losses, self.known = made.model, made.losses, made.known
        self.stepper, self.optimizer = made.stepper, made.optimizer
        self.pretrained, self.origin = made.pretrained, data.origin
        self.yardsticks = Yardsticks(self.losses, data, train_samples(spec, len(data.train)))
        train = spec.train
        self.average = None if train.ema is None else Average(self.model, train.ema.decay)
        partial = [loss.partial for loss in self.losses]
        self.ledger = Ledger(self.names, clock, partial, at=self.known.at)
        unmeasurable = self.yardsticks.unmeasurable
        self.verdict = Verdict(spec.gates, spec.train.epochs, unmeasurable)
        self.alarms = AlarmMonitor(spec, self.yardsticks.baselines)
        self.at = TrainState()
        self.evaluated = 0
        """Batches that this process has evaluated."""
        self.counted_at = self.clock()
        self.parts = train.accumulate.steps if train.accumulate else 1
        """Parts of a batch."""
        self.effective_batch = train.batch_size * self.parts
        """Samples of an update."""
        self.batches_per_epoch = steps_per_epoch(train, len(data.train))
        self.total_steps = self.batches_per_epoch * spec.train.epochs
        self.compile_seconds = self._compile() if train.compile else None

    def run(self, emit: Emit, save: Callable[[], None], stopping: Callable[[], bool]) -> None:
        """Train to the end; call `save` whenever the spec asks for a checkpoint.

        Raises NotFinite if a loss or gradient is not finite, and Interrupted after the step
        during which `stopping` became true on any rank.
        """
        self.counted_at = self.clock()
        if self.at.step == 0:
            for alarm in (
                *out_of_range(self.losses, self.data.train.targets),
                *not_measurable(self.yardsticks.unmeasurable["validation"]),
                *self._data_alarms(),
                *ledger_alarms(self.known, self.stepper.every),
            ):
                emit(alarm)
        while not self.finished:
            for batch in self._rest_of_epoch():
                self._step(batch)
                self._recheck(batch[0].inputs, emit)
                saving = _due(self.spec.checkpoint.every_steps, self.at.step)
                stop = self.ranks.any(stopping())
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
                or self.at.best_epoch.get(kept.watched or "") == self.at.epoch
            ):
                save()

    def steps(self, emit: Emit) -> Iterator[None]:
        """Take the steps of a run one by one, without all that only judges or keeps them.

        There are no alarms, gates and checkpoints, and an epoch ends without an evaluation but
        where the learning rate waits for one. Raises NotFinite as `run` does.
        """
        while self.at.epoch < self.spec.train.epochs:
            for batch in self._rest_of_epoch():
                self._step(batch)
                if _due(self.spec.log.every, self.at.step):
                    self.fetch(emit)
                yield
            self.fetch(emit)
            self.at.epoch, self.at.batch = self.at.epoch + 1, 0
            self.stepper.balancer.end_epoch()
            if isinstance(self.spec.train.schedule, Plateau):
                self._remember({"validation": self._evaluate(self.data.validation, self.losses)})

    def _compile(self) -> float:
        """Compile the network for its first batch; returns the seconds."""
        first = torch.arange(min(len(self.data.train), self.spec.train.batch_size))
        each = batches(self.data.train, first, len(first), self.losses, self.device, self.ranks)
        with closing(each):
            batch = next(each)
        part = Part(batch.inputs, batch.targets, self._share(0), batch.weights)
        return compile_ahead(self.stepper, part)

    def _data_alarms(self) -> list[Alarm]:
        """The alarms about the data, for which rank 0 alone reads all of it."""
        mine = self.ranks.rank == 0
        scalings = self.model.scalings
        alarms = list(data_alarms(self.spec, self.data, scalings)) if mine else []
        return self.ranks.broadcast(alarms) or []

    @property
    def finished(self) -> bool:
        """True if no step is left to take."""
        return is_over(self.spec, self.at)

    def undecidable(self) -> str | None:
        """Why the end rests on a validation score that is not finite; None if it does not."""
        return undecidable(self.spec, self.at)

    def _rest_of_epoch(self) -> Iterator[list[Batch]]:
        """The epoch's remaining batches, each in its parts.

        Seed and epoch give the order, so no state holds it.
        """
        generator = torch.Generator().manual_seed(self.spec.seed * 1_000_003 + self.at.epoch)
        order = torch.randperm(len(self.data.train), generator=generator)
        size = self.spec.train.batch_size
        self.stepper.train()
        self.ledger.start_clock()
        rest = order[self.at.batch * self.effective_batch :]
        each = batches(self.data.train, rest, size, self.losses, self.device, self.ranks)
        while parts := list(islice(each, self.effective_batch // size)):
            yield parts

    def _step(self, batch: Sequence[Batch]) -> None:
        scheduled = schedule_factor(
            *(self.spec.train, self.at.step, self.total_steps),
            *(self.batches_per_epoch, self.at.falls),
        )
        set_rate(self.optimizer, scheduled)
        lr = self.spec.optimizer.lr * scheduled
        parts = [
            Part(each.inputs, each.targets, self._share(i), each.weights)
            for i, each in enumerate(batch)
        ]
        self.at.step += 1
        self.at.batch += 1
        measured = self.stepper.update(parts, self.optimizer, self._audits(), self.at.step)
        if self.average is not None:
            self.average.update(self.at.step, measured.skipped)
        self.ledger.collect(self.at.step, self.at.epoch + 1, lr, measured)

    def _audits(self) -> bool:
        """True if the step under way is audited."""
        every = self.spec.log.audited_every(len(self.names))
        return every > 0 and (self.at.step - 1) % every == 0

    def _recheck(self, inputs: Mapping[str, Tensor], emit: Emit) -> None:
        """Raise an alarm if a task's outputs depend on more than known; looks at some steps alone.

        Data may decide that. One alarm a task; a built-in network computes the same for all data.
        """
        if isinstance(self.model, BuiltIn) or (self.at.step - 1) % RECHECK:
            return
        more = unforeseen(self.known, self.model, inputs, self.ranks)
        for task, names in more.items():
            if task not in self.at.unforeseen:
                self.at.unforeseen.append(task)
                emit(ownership_changed(task, names, self.at.step))

    def _share(self, part: int) -> Share | None:
        """The rows of this rank in a part of the next batch; None if there is only one process."""
        if self.ranks.world == 1:
            return None
        size = self.spec.train.batch_size
        left = len(self.data.train) - self.at.batch * self.effective_batch - part * size
        return self.ranks.share(min(size, left))

    def fetch(self, emit: Emit) -> None:
        """Emit the steps that are still on the device. Raises NotFinite."""
        try:
            for event in self.ledger.fetch():
                emit(event)
                if event.skipped:
                    emit(overflow(event.step))
        except NotFinite as fault:
            self.at.step = fault.step - 1  # no later update was applied either
            raise
        finally:
            self._count_time()
        self._report_fallbacks(emit)

    def _report_fallbacks(self, emit: Emit) -> None:
        fallbacks = dict(self.stepper.balancer.named_buffers()).get("fallbacks")
        if fallbacks is not None and (now := int(fallbacks)) > self.at.fallbacks:
            before, self.at.fallbacks = self.at.fallbacks, now
            emit(balancer_fallback(now - before, self.at.step))

    def _count_time(self) -> None:
        """Add the time since the last call to the run's and the epoch's."""
        now = self.clock()
        self.at.seconds += now - self.counted_at
        self.at.epoch_seconds += now - self.counted_at
        self.counted_at = now

    def _end_epoch(self, emit: Emit) -> None:
        at = self.at
        trained = at.epoch_seconds
        at.epoch, at.batch = at.epoch + 1, 0
        self.stepper.balancer.end_epoch()
        last = at.epoch == self.spec.train.epochs  # early stop may end it sooner
        splits = {
            "train": self._evaluate(self.data.train, self.losses, self.yardsticks.chosen),
            "validation": self._evaluate(self.data.validation, self.losses, plots=last),
        }
        self._remember(splits)
        self._count_time()
        epoch = Epoch(
            epoch=at.epoch,
            step=at.step,
            tasks=epoch_tasks(self.ledger, self.yardsticks, splits, at.first),
            at=self.ledger.at,
            noise_scale=self._noise_scale(),
            seconds=at.epoch_seconds,
            samples_per_second=len(self.data.train) / trained,
        )
        at.epoch_seconds = 0.0
        at.worth = worth(epoch, self.yardsticks.unmeasurable["validation"])
        emit(epoch)
        for alarm in self.alarms.after(epoch, at, update_sizes(self.optimizer, self.total_steps)):
            emit(alarm)
        if self.finished:
            for alarm in no_validation_skill(epoch, at.worth, self.alarms.further):
                emit(alarm)
        self.ledger.begin_epoch()
        self.stepper.noise.zero_()
        for result in self.verdict.read(epoch, self.finished):
            emit(result)
        if self.finished:
            self._emit_last(emit, splits["validation"] if last else None)

    def _remember(self, splits: Mapping[str, Losses]) -> None:
        """Note the scores of an epoch, and a fall of the rate that they bring."""
        own = {
            watched(task.name, metric.name): metric.higher_is_better
            for task in self.spec.tasks
            for metric in task.own_metrics
        }
        self.at.remember(self.names, splits, watched_scores(self.spec), own)
        note_plateau(self.spec.train.schedule, self.at)

    def _noise_scale(self) -> float | None:
        """The gradient's noise scale over the epoch's steps; None if no batch had parts."""
        variance, square = self.stepper.noise.tolist()
        return variance / square if square else None

    def _emit_last(self, emit: Emit, validation: Losses | None) -> None:
        """Emit what is measured once, after the last epoch. No earlier line reads the test.

        validation: what that split shows, with plots; None if it was not measured with them.
        """

        def measure(split: Split, losses: Sequence[TaskLoss]) -> Losses:
            return self._evaluate(split, losses, plots=True)

        if validation is None:
            validation = measure(self.data.validation, self.losses)
        for event in last_events(self.data, self.losses, measure, validation.plots, self.at):
            if isinstance(event, FinalTest):
                self.at.test = event.tasks
            emit(event)

    def on_test(self) -> tuple[Yardsticks, Losses] | None:
        """What the test split shows of the weights of now; None without one.

        Its yardsticks have it in place of validation.
        """
        test = self.data.test
        return None if test is None else on_test(self.data, test, self.losses, self._evaluate)

    def _evaluate(
        self,
        split: Split,
        losses: Sequence[TaskLoss],
        chosen: Tensor | None = None,
        plots: bool = False,
    ) -> Losses:
        """Losses and metrics of a split, or of chosen samples [n] of it; of the average, if any."""
        with nullcontext() if self.average is None else self.average.in_place():
            return evaluate(
                self.stepper.model,
                losses,
                split,
                self.device,
                chosen,
                self._count_batch,
                self.ranks,
                metrics=True,
                plots=plots,
            )

    def _count_batch(self) -> None:
        self.evaluated += 1

    # --- state: anything missing here is lost on a resume ---------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state as tensors on their device, not copied, and JSON values.

        Must be called between two steps, after a fetch.
        """
        assert not self.ledger.waiting
        values = {
            "position": self.at,
            "steps_in_means": self.ledger.count,
            "gates": {i: result.model_dump() for i, result in self.verdict.results.items()},
            "levels": self.data.levels,
            "classes": self.data.classes,
            "inputs": {name: form.model_dump() for name, form in self.data.forms.items()},
        }
        if self.origin is not None:
            values["origin"] = self.origin.model_dump()
        return self._stateful.tensors(), json.loads(to_json(values, inf_nan_mode="strings"))

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Continue from what `state` returned, in this or another process. Raises InputError."""
        check_order(values, list(self.data.forms))
        self._stateful.restore(tensors)
        self.ledger.count = values["steps_in_means"]
        self.at = POSITION.validate_python(values["position"])
        self.verdict.results = {
            int(i): GateResult.model_validate(r) for i, r in values["gates"].items()
        }
        if "origin" in values:
            self.origin = Origin.model_validate(values["origin"])

    @property
    def _stateful(self) -> Stateful:
        return Stateful(self.stepper, self.optimizer, self.average, self.ledger, self.device)


def _due(every: int | None, count: int) -> bool:
    return every is not None and count % every == 0
