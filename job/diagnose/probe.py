"""A probe: the first steps of a spec's training, measured more closely than a run measures them.

It evaluates fixed samples between the steps. The result is plain numbers, in which the causes
(job.diagnose.causes) look for their signs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from job.data.dataset import Dataset, Split
from job.diagnose import step_effect
from job.diagnose.inside.last_inputs import last_inputs
from job.diagnose.inside.look import Activity, activity
from job.diagnose.reach import Reach, farthest, reach
from job.events import Step
from job.model.baselines import Baseline
from job.model.skill import Rise, Skill, measure_rise
from job.model.start.frozen import frozen_names
from job.spec import JobSpec, Python
from job.train.evaluate import Losses, evaluate, evenly_spaced
from job.train.ledger import NotFinite
from job.train.trainer import Trainer
from job.train.yardsticks import Yardsticks

STEPS = 240
"""Steps of a probe, if the run has as many. A probe's length never depends on the clock."""
EVALUATIONS = 20
"""Number of evaluations in a probe."""
SAMPLES = 512
"""Samples of each split that are evaluated, at most."""
SURELY = 3.0
"""Standard errors of a difference that is no chance."""

Tick = Callable[[float], None]
"""Called with the share of a probe that is done."""


@dataclass(frozen=True)
class Evaluation:
    """Mean losses after `step` steps."""

    step: int
    train: Losses
    validation: Losses | None
    """None before the end of a probe that judges only its end."""


@dataclass
class Probe:
    """The measurements of a probe, by the names of the K tasks."""

    spec: JobSpec
    data: Dataset
    yardsticks: Yardsticks
    """Trivial predictions on both splits."""
    planned: int
    """Steps of the whole run."""
    batches: int
    """Steps of an epoch."""
    reach: dict[str, Reach]
    """Reach of the heads, at the start or at the end, whichever is farther."""
    at_end: Activity = field(init=False)
    """Known when the probe ends."""
    evaluations: list[Evaluation] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    scales: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """By input of numbers, what the network divides each of its features by: [F]."""
    sizes: dict[str, float] = field(default_factory=dict)
    """Root mean square of the weight matrices at the start: of `trunk` and of `heads`; infinite
    where there are none."""
    untrained: list[str] = field(default_factory=list)
    """Parameters that the optimizer does not update."""
    without_gradient: dict[str, list[str]] = field(default_factory=dict)
    """Parameters that never had a gradient, by task; the trunk's under the empty name."""
    dead: dict[str, float] = field(default_factory=dict)
    """Share of units of a window head's projection that are 0 for every sample at the end."""
    effects: dict[str, step_effect.Effect] = field(default_factory=dict)
    cosines: dict[str, dict[str, float]] = field(default_factory=dict)
    """Mean cosines of a task's gradient at z with each other task's."""
    not_finite: str | None = None
    """The value that was not finite, in words; None if all were."""
    cut: bool = False
    """True if the diagnosis' time limit ended it early."""

    @property
    def names(self) -> list[str]:
        """The tasks' names."""
        return self.spec.task_names

    @property
    def not_measured(self) -> list[str]:
        """What cannot be measured of this network, in words."""
        return [
            f"how far the outputs of {name} can move, as they are not those of one linear map"
            for name in self.names
            if name not in self.reach
        ]

    @property
    def is_whole_run(self) -> bool:
        """True if the probe took all steps of the run."""
        return self.evaluations[-1].step >= self.planned

    def losses(self, task: str, split: str = "train") -> list[float]:
        """A task's loss at each evaluation of a split, original units."""
        k = self.names.index(task)
        looks = [getattr(look, split) for look in self.evaluations]
        return [look.original[k] for look in looks if look is not None]

    def end(self, task: str, split: str = "train") -> float:
        """A task's loss at the end."""
        return self.losses(task, split)[-1]

    def mean(self, task: str) -> float:
        """A task's mean loss over the evaluations after the first, original units."""
        losses = self.losses(task)[1:]
        return sum(losses) / len(losses)

    def skill(self, task: str, split: str = "train") -> float:
        """1 − loss at the end / loss of the strongest trivial prediction on that split."""
        trivial = self.trivial(task, split)
        return 1 - self.end(task, split) / trivial if trivial else math.nan

    @property
    def baselines(self) -> dict[str, Baseline]:
        """Losses of trivial predictions, original units."""
        return dict(zip(self.names, self.yardsticks.baselines, strict=True))

    def measured(self, task: str, split: str = "validation") -> Skill | None:
        """The skill at the end with its error; None if the split cannot tell one."""
        return self._skills(split)[self.names.index(task)]

    def _skills(self, split: str) -> list[Skill | None]:
        return self.yardsticks.skills(split, getattr(self.evaluations[-1], split))

    def knows(self, task: str, split: str = "validation") -> bool:
        """True if the skill at the end is above 0 by more than its error (95 % interval)."""
        skill = self.measured(task, split)
        return skill is not None and skill.low > 0

    def rise(self, before: Probe, task: str, split: str = "validation") -> Rise | None:
        """What a task's skill has gained on `before`; None if the split cannot tell a skill."""
        k, there = self.names.index(task), before.names.index(task)
        if task in self.yardsticks.unmeasurable[split]:
            return None
        return measure_rise(
            before.yardsticks.by_sample(split, getattr(before.evaluations[-1], split), there),
            self.yardsticks.by_sample(split, getattr(self.evaluations[-1], split), k),
            self.yardsticks.counted[split][k].overlap,
        )

    def ahead(self, task: str) -> float:
        """Share of the validation samples whose loss is below the trivial prediction's."""
        losses = self.evaluations[-1].validation
        assert losses is not None
        mine, trivial = self.yardsticks.by_sample("validation", losses, self.names.index(task))
        return (mine < trivial).double().mean().item()

    def trivial(self, task: str, split: str = "train") -> float:
        """The loss of the strongest trivial prediction."""
        return self.baselines[task].strongest(split)

    def expected_skill(self, task: str) -> float:
        """The skill if the loss keeps falling as in the probe's last half, for as long again."""
        losses, done = self.losses(task), self.evaluations[-1].step
        half = len(losses) // 2
        pace = (losses[half] - losses[-1]) / max(done - self.evaluations[half].step, 1)
        left = min(max(self.planned - done, 0), done) * max(pace, 0.0)
        trivial = self.trivial(task)
        return 1 - max(losses[-1] - left, 0.0) / trivial if trivial else math.nan

    def has_fallen(self, task: str) -> bool:
        """True if the loss ends below half of what it began with."""
        losses = self.losses(task)
        return losses[-1] < losses[0] / 2

    def is_hopeful(self, task: str) -> bool:
        """True if a run that is longer than the probe may still teach a task: its loss falls."""
        return not self.is_whole_run and self.expected_skill(task) > 0

    def saturated(self, task: str) -> float:
        """Share of elements with a saturated loss, mean over the evaluations."""
        k = self.names.index(task)
        return sum(look.train.saturated[k] for look in self.evaluations) / len(self.evaluations)

    def mean_of(self, task: str, what: str) -> float:
        """The mean over the probe's steps of one of a task's fields, named `what`."""
        values = [getattr(step.tasks[task], what) for step in self.steps if not step.skipped]
        return sum(values) / len(values) if values else math.nan


def knows_beyond(probe: Probe, control: Probe, task: str) -> bool:
    """True if a task's validation skill is above 0 and above the control's by more than its error.

    control: the probe of the same spec with permuted targets.
    """
    skill, chance = probe.measured(task), control.measured(task)
    if skill is None or chance is None:
        return False
    return skill.low > 0 and skill.value - chance.value > math.hypot(skill.error, chance.error)


def is_ahead(probe: Probe, control: Probe, task: str) -> bool:
    """True if most validation samples are predicted better than trivially, surely by knowledge.

    Then a few mistakes of which the network was sure may have cost all skill. As a network may be
    ahead at the samples of a common class by saying nothing else, it must be so at more of them
    than with permuted targets, by SURELY standard errors.
    """
    if probe.measured(task) is None or control.measured(task) is None:
        return False
    mine, chance = (each.ahead(task) for each in (probe, control))
    k = probe.names.index(task)
    counted = probe.yardsticks.counted["validation"][k]
    count = len(probe.baselines[task].by_sample["validation"]) / counted.overlap
    error = math.sqrt((mine * (1 - mine) + chance * (1 - chance)) / count)
    return mine > 0.5 and mine - chance > SURELY * error


def probe(
    training: Trainer,
    tick: Tick = lambda done: None,
    until: float = math.inf,
    validate: bool = False,
) -> Probe:
    """Train for STEPS steps and measure. The training cannot be used afterwards.

    until: time of the monotonic clock after which no further step is taken. validate: whether to
    evaluate the validation split all along, and not only at the end.
    """
    return _Prober(training, tick, until, validate).run()


def probe_inputs(spec: JobSpec, data: Dataset) -> tuple[JobSpec, Dataset]:
    """The spec and data for a probe: without all that costs time and changes no step."""
    train = spec.train.model_copy(
        update={"evaluate": SAMPLES, "early_stop": None, "compile": False}
    )
    log = spec.log.model_copy(update={"audit_every": 0})
    some = evenly_spaced(len(data.validation), SAMPLES)
    whole = data.validation
    part = replace(
        whole,
        inputs=whole.inputs_of(some),
        targets={name: y[some] for name, y in whole.targets.items()},
        weights={name: each[some] for name, each in whole.weights.items()},
        overlap=math.ceil(whole.overlap * len(some) / len(whole)),
    )
    fewer = replace(data, validation=part)
    kept = {"train": train, "log": log, "gates": (), "resources": None}
    return spec.model_copy(update=kept), fewer


class _Prober:
    """Trains, and evaluates between the steps."""

    def __init__(self, training: Trainer, tick: Tick, until: float, validate: bool) -> None:
        self.training, self.tick, self.validate = training, tick, validate
        stepper, names = training.stepper, training.names
        self.model = training.model
        self.named = dict(stepper.named_parameters())
        every = [name for name, _ in self.model.named_parameters()]
        wanted = frozen_names(training.spec.model.frozen, every)
        self.frozen = {f"model.{name}" for name in wanted}
        self.largest = torch.zeros(len(self.named))
        self.limit, self.until = min(training.total_steps, STEPS), until
        self.before: step_effect.Before | None = None
        self.found = Probe(
            spec=training.spec,
            data=training.data,
            yardsticks=training.yardsticks,
            sizes=self._sizes(),
            scales={n: s.scale.double().cpu().numpy() for n, s in self.model.scalings.items()},
            planned=training.total_steps,
            batches=training.batches_per_epoch,
            reach=reach(training),
            effects={name: step_effect.Effect() for name in names},
        )

    def _sizes(self) -> dict[str, float]:
        sizes, trunk = {}, {*self.training.known.trunk}
        for name in ("trunk", "heads"):
            weights = [
                p.detach().flatten()
                for n, p in self.model.named_parameters()
                if p.dim() > 1 and (n in trunk) == (name == "trunk")
            ]
            whole = torch.cat(weights) if weights else torch.tensor([math.inf])
            sizes[name] = whole.square().mean().sqrt().item()
        return sizes

    def run(self) -> Probe:
        found, training = self.found, self.training
        self._evaluate()
        try:
            for _ in training.steps(self._take):
                if self._after_step():
                    break
            training.fetch(self._take)
        except NotFinite as fault:
            found.not_finite = str(fault)
        if found.evaluations[-1].step == training.at.step > 0:
            found.evaluations.pop()
        self._evaluate(at_end=True)
        found.at_end = activity(training)
        later = reach(training)
        both = [(name, first) for name, first in found.reach.items() if name in later]
        found.reach = {name: farthest(first, later[name]) for name, first in both}
        found.cosines = training.ledger.cosines()
        self._paths()
        return found

    def _take(self, event: BaseModel) -> None:
        if isinstance(event, Step):
            self.found.steps.append(event)

    def _after_step(self) -> bool:
        """Measure after a step; return True if the probe is over."""
        step = self.training.at.step
        grads = [p.grad for p in self.named.values()]
        size = [torch.zeros(()) if g is None else g.abs().max().cpu() for g in grads]
        self.largest = torch.maximum(self.largest, torch.stack(size))
        if self.before is not None:
            step_effect.add_effects(self.found.effects, self.before, self.training)
            self.before = None
        every = max(1, self.limit // EVALUATIONS)
        if step % every == 0 and step < self.limit:
            self._evaluate()
            if len(self.found.evaluations) % 3 == 0 and len(self.training.names) > 1:
                self.before = step_effect.network_before(self.training)
        self.tick(step / self.limit)
        self.found.cut = step < self.limit and time.monotonic() > self.until
        return step >= self.limit or self.found.cut

    def _evaluate(self, at_end: bool = False) -> None:
        def of(split: Split, chosen: Tensor | None) -> Losses:
            return evaluate(self.model, training.losses, split, training.device, chosen)

        training, data = self.training, self.training.data
        held_out = of(data.validation, None) if at_end or self.validate else None
        train = of(data.train, training.yardsticks.chosen)
        self.found.evaluations.append(Evaluation(training.at.step, train, held_out))

    # --- paths -----------------------------------------------------------------------------------

    def _paths(self) -> None:
        """Find parameters that are not trained or have no gradient, and dead units."""
        found, training = self.found, self.training
        trained = {id(p) for group in training.optimizer.param_groups for p in group["params"]}
        found.untrained = [
            n
            for n, p in self.named.items()
            if n not in self.frozen and p.requires_grad and id(p) not in trained
        ]
        quiet = [
            n
            for n, most in zip(self.named, self.largest, strict=True)
            if most == 0 and n not in self.frozen and self.named[n].requires_grad
        ]
        owned = dict(zip(found.names, training.known.of_tasks, strict=True))
        parts = {"": training.known.below} | owned
        found.without_gradient = {
            part: [f"model.{n}" for n in names if f"model.{n}" in quiet and not self._idle(n)]
            for part, names in parts.items()
        }
        with torch.no_grad():
            chosen = evenly_spaced(len(training.data.train), SAMPLES)
            inputs = training.data.train.inputs_of(chosen, training.device)
            self.model.eval()
            _, reads = last_inputs(self.model, inputs)
            own = isinstance(training.spec.model, Python)  # what stands before its heads varies
            for task, units in zip(training.spec.tasks, reads, strict=True):
                if task.hidden(1) and units is not None and not own:  # else not behind a ReLU
                    dead = (units == 0).flatten(0, -2).all(0)
                    found.dead[task.name] = dead.double().mean().item()

    def _idle(self, name: str) -> bool:
        """True if a parameter can have no effect: recurrent weights with a single time step."""
        return "weight_hh" in name and self.training.data.train.positions == 1


def grad_share(probe: Probe, name: str) -> float:
    """A task's mean share of the combined gradient at z."""
    return probe.mean_of(name, "grad_share")
