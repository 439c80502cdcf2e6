"""A short training of a spec, measured more closely than a run measures itself.

What it takes: the first steps of the very training that the spec asks for, some looks at fixed
samples in between. What it gives is plain numbers; the causes are read from them (job.cause_*).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from pydantic import BaseModel

from job import effect
from job.baseline import Baseline
from job.data import Dataset, Split
from job.evaluate import Losses, evaluate, evenly_spaced
from job.events import Epoch, Step
from job.ledger import NotFinite
from job.model import StepHead
from job.reach import Reach, best, reach
from job.spec import JobSpec
from job.train import Interrupted, Training

STEPS = 240
"""At most, of a probe."""
SECONDS = 60.0
"""At most, of the first probe's training: where steps are slow, it and the others take fewer."""
LOOKS = 20
"""How often the losses are looked at."""
SAMPLES = 512
"""Of each split that a look is at, at most."""

Tick = Callable[[float], None]
"""Told what share of a probe is done."""


@dataclass(frozen=True)
class Look:
    """Mean losses after so many steps."""

    step: int
    train: Losses
    validation: Losses


@dataclass
class Probe:
    """What was measured, K tasks by name."""

    spec: JobSpec
    data: Dataset
    baselines: dict[str, Baseline]
    """Losses of trivial predictions, original units."""
    planned: int
    """Steps of the whole run."""
    batches: int
    """Steps of an epoch."""
    reach: dict[str, Reach]
    """At its best: at the start or at the end of the probe."""
    looks: list[Look] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    sizes: dict[str, float] = field(default_factory=dict)
    """Root mean square of the weight matrices at the start, by room: trunk and heads."""
    untrained: list[str] = field(default_factory=list)
    """Parameters that no optimizer moves."""
    silent: dict[str, list[str]] = field(default_factory=dict)
    """Parameters that never had a gradient, by task, those of the trunk under ``."""
    dead: dict[str, float] = field(default_factory=dict)
    """Share of a window head's projection that is 0 for every sample at the end."""
    effects: dict[str, effect.Effect] = field(default_factory=dict)
    cosines: dict[str, dict[str, float]] = field(default_factory=dict)
    """Mean cosines of a task's gradient at z with each other task's."""
    broken: str | None = None
    """What was not finite."""

    @property
    def names(self) -> list[str]:
        """Of the tasks."""
        return self.spec.task_names

    @property
    def whole(self) -> bool:
        """Whether the probe was the whole run."""
        return self.looks[-1].step >= self.planned

    def losses(self, task: str, split: str = "train") -> list[float]:
        """A task's losses, one a look, original units."""
        k = self.names.index(task)
        return [getattr(look, split).original[k] for look in self.looks]

    def end(self, task: str, split: str = "train") -> float:
        """The loss at the end."""
        return self.losses(task, split)[-1]

    def mean(self, task: str) -> float:
        """The mean loss over the looks after the first, original units."""
        losses = self.losses(task)[1:]
        return sum(losses) / len(losses)

    def skill(self, task: str, split: str = "train") -> float:
        """1 − loss / that of the strongest trivial prediction."""
        trivial = self.trivial(task, split)
        return 1 - self.end(task, split) / trivial if trivial else math.nan

    def trivial(self, task: str, split: str = "train") -> float:
        """The loss of the strongest trivial prediction."""
        return self.baselines[task].strongest(split)

    def foreseen(self, task: str) -> float:
        """The skill to come, if the loss falls on as in the probe's last half for as long again."""
        losses, done = self.losses(task), self.looks[-1].step
        half = len(losses) // 2
        pace = (losses[half] - losses[-1]) / max(done - self.looks[half].step, 1)
        left = min(max(self.planned - done, 0), done) * max(pace, 0.0)
        trivial = self.trivial(task)
        return 1 - max(losses[-1] - left, 0.0) / trivial if trivial else math.nan

    def saturated(self, task: str) -> float:
        """Share of elements at which the loss is saturated, mean over the looks."""
        k = self.names.index(task)
        return sum(look.train.saturated[k] for look in self.looks) / len(self.looks)

    def mean_of(self, task: str, what: str) -> float:
        """The mean over the probe's steps of what a step tells of a task."""
        values = [getattr(step.tasks[task], what) for step in self.steps if not step.skipped]
        return sum(values) / len(values) if values else math.nan


def probe(training: Training, tick: Tick = lambda done: None, most: int | None = None) -> Probe:
    """Train for a while, and measure. The training is used up.

    most: steps; None: STEPS, and no more than SECONDS allow.
    """
    return _Prober(training, tick, most).run()


def small(spec: JobSpec, data: Dataset) -> tuple[JobSpec, Dataset]:
    """The spec and the data of a probe: without what costs time and changes no step."""
    train = spec.train.model_copy(update={"evaluate": SAMPLES, "early_stop": None})
    log = spec.log.model_copy(update={"audit_every": 0})
    some = evenly_spaced(len(data.validation.features), SAMPLES)
    targets = {name: y[some] for name, y in data.validation.targets.items()}
    fewer = replace(data, validation=Split(data.validation.features[some], targets))
    kept = {"train": train, "log": log, "gates": (), "resources": None}
    return spec.model_copy(update=kept), fewer


class _Prober:
    """Trains, and looks in between."""

    def __init__(self, training: Training, tick: Tick, most: int | None) -> None:
        self.training, self.tick = training, tick
        stepper, names = training.stepper, training.names
        self.model, self.trunk = stepper.model, dict(stepper.model.trunk.named_parameters())
        self.named = dict(stepper.named_parameters())
        self.largest = torch.zeros(len(self.named))
        self.limit = min(training.total_steps, STEPS if most is None else most)
        self.seconds = SECONDS if most is None else math.inf
        self.until = math.inf
        self.before: effect.Before | None = None
        self.found = Probe(
            spec=training.spec,
            data=training.data,
            baselines=dict(zip(names, training.baselines, strict=True)),
            sizes=self._sizes(),
            planned=training.total_steps,
            batches=training.batches_per_epoch,
            reach=reach(training),
            effects={name: effect.Effect() for name in names},
        )

    def _sizes(self) -> dict[str, float]:
        rooms = {"trunk": self.model.trunk, "heads": self.model.by_task}
        found = {}
        for name, room in rooms.items():
            weights = [p.detach().flatten() for p in room.parameters() if p.dim() > 1]
            found[name] = torch.cat(weights).square().mean().sqrt().item()
        return found

    def run(self) -> Probe:
        found, training = self.found, self.training
        self._look()
        self.until = time.monotonic() + self.seconds
        try:
            training.run(self._take, lambda: None, self._after_step)
        except Interrupted:
            pass
        except NotFinite as fault:
            found.broken = str(fault)
        if found.looks[-1].step < training.at.step or len(found.looks) == 1:
            self._look()
        later = reach(training)
        found.reach = {name: best(first, later[name]) for name, first in found.reach.items()}
        self._cosines(training.ledger.cosines(), training.ledger.count)
        self._paths()
        return found

    def _take(self, event: BaseModel) -> None:
        if isinstance(event, Step):
            self.found.steps.append(event)
        elif isinstance(event, Epoch):
            cosines = {name: task.cosines for name, task in event.tasks.items()}
            self._cosines(cosines, self.found.batches)

    def _cosines(self, means: dict[str, dict[str, float]], steps: int) -> None:
        """Take in the mean cosines of so many steps."""
        share = steps / max(self.training.at.step, 1)
        for name, row in means.items():
            mine = self.found.cosines.setdefault(name, dict.fromkeys(row, 0.0))
            for other, cosine in row.items():
                mine[other] = mine[other] * (1 - share) + cosine * share

    def _after_step(self) -> bool:
        """Measure after a step; whether the probe is over."""
        step = self.training.at.step
        grads = [p.grad for p in self.named.values()]
        size = [torch.zeros(()) if g is None else g.abs().max().cpu() for g in grads]
        self.largest = torch.maximum(self.largest, torch.stack(size))
        if self.before is not None:
            effect.add(self.found.effects, self.before, self.training)
            self.before = None
        every = max(1, self.limit // LOOKS)
        if step % every == 0 or step == self.limit:
            self._look()
            if len(self.found.looks) % 3 == 0:
                self.before = effect.remember(self.training)
        self.tick(step / self.limit)
        return step >= self.limit or time.monotonic() > self.until

    def _look(self) -> None:
        training = self.training
        both = (
            evaluate(self.model, training.losses, split, training.device, SAMPLES)
            for split in (training.data.train, training.data.validation)
        )
        self.found.looks.append(Look(training.at.step, *both))

    # --- paths -----------------------------------------------------------------------------------

    def _paths(self) -> None:
        """Which parameters are not trained, which have no gradient, which units are dead."""
        found, training = self.found, self.training
        trained = {id(p) for group in training.optimizer.param_groups for p in group["params"]}
        found.untrained = [
            n for n, p in self.named.items() if id(p) not in trained or not p.requires_grad
        ]
        quiet = [n for n, most in zip(self.named, self.largest, strict=True) if most == 0]
        rooms = {"": "model.trunk."} | {n: f"model.by_task.task_{n}." for n in found.names}
        found.silent = {
            room: [n for n in quiet if n.startswith(prefix) and not self._idle(n)]
            for room, prefix in rooms.items()
        }
        with torch.no_grad():
            chosen = evenly_spaced(len(training.data.train.features), SAMPLES)
            features = training.data.train.features[chosen].to(training.device)
            self.model.eval()
            z = self.model.trunk(features)
            for name, head in zip(found.names, self.model.heads, strict=True):
                if not isinstance(head, StepHead):
                    units = torch.relu(head.projection[0](z.mean(1)))
                    found.dead[name] = (units == 0).all(0).double().mean().item()

    def _idle(self, name: str) -> bool:
        """Whether a parameter has no part in the loss by its nature: recurrence over one step."""
        return "weight_hh" in name and self.training.data.train.features.shape[1] == 1
