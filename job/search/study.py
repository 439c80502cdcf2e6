"""The study of a search: what Optuna keeps of its trials, and which trial comes next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from job.errors import Fault, InputError
from job.search.objective import Objective, Skills
from job.search.space import Choices, Dimension, Space
from job.show.format import format_number
from job.spec import JobSpec

Pruner = Literal["median", "hyperband", "none"]
PRUNERS: dict[Pruner, type[BasePruner]] = {
    "median": MedianPruner,
    "hyperband": HyperbandPruner,
    "none": NopPruner,
}
AS_IT_IS = "the spec as it is"
"""Attribute of the trial that has the spec's own values."""
SKILL, ERROR, WHY, RUN = "skill", "skill_error", "error", "run"
"""Attributes of a trial: its tasks' skills, their standard errors, why it failed, its run's id."""


class SearchStudy:
    """A study of a spec in a space. Each trial has a number, and a run of the same number."""

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
        name: str,
        space: Space,
        objective: Objective,
        pruner: Pruner,
    ) -> None:
        """Open the study, or begin it; raises InputError if it was begun with anything else."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.name, self.space, self.objective = name, space, objective
        self.base: JobSpec = space.base
        if name not in optuna.get_all_study_names(storage):  # else the journal would grow
            directions = [StudyDirection.MAXIMIZE] * len(objective.names)
            optuna.create_study(storage=storage, study_name=name, directions=directions)
        made = PRUNERS[pruner if objective.single else "none"]()
        self.study = optuna.load_study(study_name=name, storage=storage, pruner=made)
        self._check_same()
        values = space.of_the_spec()
        if not self.study.get_trials(deepcopy=False) and values is not None:
            self.study.enqueue_trial(values, user_attrs={AS_IT_IS: True})

    def _check_same(self) -> None:
        """Raises InputError if the study was begun with another spec, space or objective."""
        begun = self.study.user_attrs
        now = {
            "spec": self.base.content_hash(),
            "space": self.space.content,
            "objective": self.objective.names,
        }
        for what, value in now.items():
            if begun.get(what, value) != value:
                found, rule = f"a study of another {what}", "a study has one spec and one space"
                remedy = "give --study another name"
                raise InputError([Fault(f"--study {self.name}", found, rule, remedy)])
            if what not in begun:
                self.study.set_user_attr(what, value)

    # --- trials -----------------------------------------------------------------------------------

    @property
    def begun(self) -> list[FrozenTrial]:
        """All trials that have begun, by number."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state != TrialState.WAITING]

    @property
    def unfinished(self) -> list[Trial]:
        """The trials that an ended process has left, to go on with."""
        left = [trial for trial in self.begun if trial.state == TrialState.RUNNING]
        return [self._with_values(trial.number, trial._trial_id) for trial in left]

    def ask(self) -> Trial:
        """A new trial, which the study has from now on.

        The sampler draws from the spec's seed and the trial's number: what it proposes depends on
        the trials before, and not on how often the search was interrupted.
        """
        return self._with_values(len(self.begun), None)

    def _with_values(self, number: int, trial_id: int | None) -> Trial:
        seed = np.random.SeedSequence((self.base.seed, number)).generate_state(1)[0]
        self.study.sampler = TPESampler(seed=int(seed))
        trial = self.study.ask() if trial_id is None else Trial(self.study, trial_id)
        for dimension in self.space.dimensions:  # one that it has keeps its value
            _suggest(trial, dimension)
        trial.set_user_attr(RUN, self.run_id(trial.number))
        return trial

    def run_id(self, number: int) -> str:
        """The id of a trial's run."""
        return f"{self.name}-{number:03d}"

    def spec(self, trial: Trial) -> JobSpec:
        """The spec of a trial: its label says where it comes from, its notes with which values.

        Raises InputError if the trial's values do not go together.
        """
        spec = self.space.spec(trial.params)
        notes = "\n".join(filter(None, (settings(trial.params), spec.notes)))
        label = f"trial {trial.number} of {self.name}"
        return spec.model_copy(update={"label": label, "notes": notes})

    # --- what trials tell -------------------------------------------------------------------------
    # Another search of the study may have ended a trial meanwhile; then it stays as that left it.

    def is_hopeless(self, trial: Trial, epoch: int, skills: Skills) -> bool:
        """Report the skills after an epoch; True if the trial is to end now, and is pruned.

        What an epoch has shown is reported once: one that is repeated after a kill shows the same.
        """
        if not self.objective.single:
            return False
        (value,) = self.objective.values(skills)
        so_far = self.frozen(trial.number)
        if math.isnan(value) or so_far.state.is_finished():
            return so_far.state == TrialState.PRUNED
        with suppress(UpdateFinishedTrialError):
            if epoch not in so_far.intermediate_values:
                trial.report(value, epoch)
            if trial.should_prune():
                self._note(trial, skills)
                self.study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)
        return self.frozen(trial.number).state == TrialState.PRUNED

    def complete(self, trial: Trial, skills: Skills, errors: Skills) -> None:
        """Record what a trial that trained to its end has shown; no value may be missing."""
        with suppress(UpdateFinishedTrialError):
            self._note(trial, skills, errors)
            self.study.tell(trial.number, self.objective.values(skills), skip_if_finished=True)

    def fail(self, trial: Trial, why: str) -> None:
        """Record that a trial failed, and why in one line."""
        with suppress(UpdateFinishedTrialError):
            trial.set_user_attr(WHY, why)
            self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def frozen(self, number: int) -> FrozenTrial:
        """A trial as the study has it."""
        return self.study.get_trials(deepcopy=False)[number]

    @staticmethod
    def _note(trial: Trial, skills: Skills, errors: Skills | None = None) -> None:
        trial.set_user_attr(SKILL, dict(skills))
        if errors is not None:
            trial.set_user_attr(ERROR, dict(errors))


def settings(values: Mapping[str, Any]) -> str:
    """A trial's values: `optimizer.lr 0.003, model.hidden [64, 64]`."""
    return ", ".join(f"{name} {value_text(value)}" for name, value in values.items())


def value_text(value: Any) -> str:
    """A value of a trial, as people read it."""
    return format_number(value) if isinstance(value, float) else str(value)


def _suggest(trial: Trial, dimension: Dimension) -> None:
    """Give the trial a value of the dimension, unless it has one."""
    name, values = dimension.name, dimension.values
    if isinstance(values, Choices):
        trial.suggest_categorical(name, list(values.by_label))
    elif dimension.whole:
        low, high, step = int(values.low), int(values.high), int(values.step or 1)
        trial.suggest_int(name, low, high, step=step, log=values.log)
    else:
        trial.suggest_float(name, values.low, values.high, step=values.step, log=values.log)
