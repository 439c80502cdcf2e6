"""The end of a search: its best trial, what the test split says of it, and its spec as a file."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from job.search.held_out import Gain, OnTest, on_test
from job.search.show import skills_of, with_error
from job.search.study import AS_IT_IS, ERROR, RUN, SKILL, WHY, SearchStudy, settings
from job.show.format import counted
from job.store import Store

NAMED = 5
"""Failed trials that are named; the rest is counted."""


@dataclass(frozen=True)
class Result:
    """The trials that trained to their end, and what the test split says of the best one."""

    study: SearchStudy
    ranked: list[FrozenTrial]
    """Best first. Of several objectives, the Pareto front, by the mean of the skills."""
    default: FrozenTrial | None
    """The trial of the spec as it is, if the space has it and it trained to its end."""
    test: OnTest | None
    """Of the best; None without a test split."""
    default_test: OnTest | None

    @property
    def best(self) -> FrozenTrial:
        """The first of the ranked ones."""
        return self.ranked[0]

    @property
    def gains(self) -> dict[str, Gain]:
        """By task, how far the best trial's test loss is below that of the spec as it is."""
        if self.test is None or self.default_test is None or self.default == self.best:
            return {}
        return self.test.gains(self.default_test)

    def figures(self) -> dict[str, Any]:
        """The best trial's figures as JSON values."""
        best, attributes = self.best, self.best.user_attrs
        tested = self.test.skills if self.test is not None else {}
        return {
            "study": self.study.name,
            "trial": best.number,
            "run": f"{self.study.base.name}/{attributes[RUN]}",
            "values": self.study.space.spec_values(best.params),
            "objectives": dict(zip(self.study.objective.names, best.values, strict=True)),
            "trials": len(self.study.begun),
            "validation_skill": attributes[SKILL],
            "validation_skill_error": attributes[ERROR],
            "test_skill": {name: skill and skill.value for name, skill in tested.items()},
            "test_skill_error": {name: skill and skill.error for name, skill in tested.items()},
            "test_loss_below_the_spec": {k: gain._asdict() for k, gain in self.gains.items()},
        }


def result_of(study: SearchStudy, store: Store) -> Result | None:
    """The result of a study so far; None if no trial has trained to its end.

    The test split is read for the best trial and the spec as it is. Raises InputError, Damaged,
    StoreError.
    """
    whole = [trial for trial in study.begun if trial.state == TrialState.COMPLETE]
    if not whole:
        return None
    front = whole if study.objective.single else study.study.best_trials
    ranked = sorted(front, key=lambda trial: (-statistics.fmean(trial.values), trial.number))
    default = next((trial for trial in whole if trial.user_attrs.get(AS_IT_IS)), None)

    def tested(trial: FrozenTrial | None) -> OnTest | None:
        if trial is None:
            return None
        spec, run = study.space.spec(trial.params), study.run_id(trial.number)
        return on_test(spec, study.space.folder, store, f"{spec.name}/{run}")

    test = tested(ranked[0])
    beside = tested(default) if test is not None and default != ranked[0] else None
    return Result(study, ranked, default, test, beside)


def trials_in_words(study: SearchStudy) -> list[str]:
    """How many trials ended how, and why some failed."""
    states = Counter(trial.state for trial in study.begun)
    kinds = {
        TrialState.COMPLETE: "trained to the end",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
        TrialState.RUNNING: "not ended",
    }
    parts = [f"{states[state]} {words}" for state, words in kinds.items() if states[state]]
    lines = [f"{counted(len(study.begun), 'trial')}: {', '.join(parts)}"] if parts else []
    failed = [trial for trial in study.begun if trial.state == TrialState.FAIL]
    lines += [f"trial {t.number} failed: {t.user_attrs.get(WHY)}" for t in failed[:NAMED]]
    return lines


def in_words(result: Result) -> list[str]:
    """What the best trial is worth, line by line."""
    study, best, default = result.study, result.best, result.default
    which = f"trial {best.number} ({settings(best.params)})"
    if study.objective.single:
        lines = [f"{which} has the best {study.objective.names[0]}: {100 * best.values[0]:.1f}%"]
    else:
        lines = [f"{which} has the best mean of the front's skills"]
    lines[0] += "; as it was chosen by that number, expect less of it"
    if default == best:
        return [*lines, "it is the spec as it is: no trial is better", *_tested(result)]
    if default is None:
        return [*lines, "no trial of the spec as it is stands beside it", *_tested(result)]
    values = f"{100 * default.values[0]:.1f}%, " if study.objective.single else ""
    lines.append(f"trial {default.number}, the spec as it is: {values}{_skills_of(default)}")
    return [*lines, *_tested(result)]


def _tested(result: Result) -> list[str]:
    """What the test split says."""
    if result.test is None:
        return ["the spec has no test split (data.test) to confirm it with"]
    lines = [f"on the test split, by which nothing was chosen: {_skills(result.test)}"]
    if result.default_test is None:
        return lines
    lines.append(f"the spec as it is, there: {_skills(result.default_test)}")
    return [*lines, *_beside(list(result.gains.items()))]


def _skills_of(trial: FrozenTrial) -> str:
    """A trial's skills on the validation split."""
    return ", ".join(f"{task} {skill}" for task, skill in skills_of(trial).items())


def _beside(gains: Sequence[tuple[str, Gain]]) -> list[str]:
    """The best trial beside the spec as it is, on the test split."""
    if not gains:
        return ["their test losses do not compare: the trial's data or losses are others"]
    lines = [
        f"{task}: test loss {-100 * gain.value:+.1f}%, 95% interval {-100 * gain.high:+.1f} to "
        f"{-100 * gain.low:+.1f}%"
        for task, gain in gains
    ]
    better = [task for task, gain in gains if gain.certain and gain.value > 0]
    worse = [task for task, gain in gains if gain.certain and gain.value < 0]
    verdict = f"it beats the spec as it is: {', '.join(better)}"
    if not better:
        verdict = "it does not beat the spec as it is beyond chance"
    return [*lines, f"{verdict}; worse: {', '.join(worse)}" if worse else verdict]


def _skills(test: OnTest) -> str:
    return ", ".join(
        f"{name} skill {with_error(skill.value, skill.error) if skill else '-'}"
        for name, skill in test.skills.items()
    )
