"""Uninformative: a task that nothing else explains, and that does not learn alone either."""

from __future__ import annotations

from collections.abc import Iterator

from job.diagnose.case import GAIN, Case, Finding, is_risen
from job.diagnose.causes import learning_rate, settings
from job.diagnose.neighbours import rows_of, skill_within
from job.diagnose.probe import Probe
from job.spec.patch import Edit


def findings(case: Case, explained: set[str]) -> Iterator[Finding]:
    """Findings on tasks without validation skill and without another finding, each trained alone.

    None if no task has any: then the fault is one of the whole run. Of a task of which a simple
    prediction knows something it is not said that the features do not tell it. explained: tasks
    that other findings concern.
    """
    if not any(case.now.knows(name) for name in case.now.names):
        return
    for name in case.open_tasks:
        known = case.now.knows(name) or case.first.knows(name)
        if name in explained or known or case.now.is_hopeful(name):
            continue
        measurable = case.now.measured(name) is not None
        if not measurable or (alone := case.probe_with(*_alone(case, name))) is None:
            continue
        evidence = f"its skill on the validation split is {_skill(case.now, name)}"
        # Every task learns faster alone, so only one far from its trivial prediction is a finding.
        if alone.knows(name):
            if case.now.expected_skill(name) < -GAIN:
                evidence += f", and {_skill(alone, name)} when trained alone"
                yield Finding("conflict", name, evidence, "give it a network, or a run, of its own")
            continue
        tried = list(_tried(case, name))
        best = max(tried, key=lambda each: each[1].skill(name, "validation"), default=None)
        if max(probe.skill(name) for probe in (alone, *(each for _, each in tried))) < -GAIN:
            continue  # not even the trivial prediction is reached, so the features are not to blame
        if best is not None and best[1].knows(name):
            if not is_risen(case.now, best[1], name):
                continue
            evidence += f", and {_skill(best[1], name)} when trained alone with {best[0]}"
            yield Finding(
                "conflict", name, evidence, "give it a run of its own, with these settings"
            )
            continue
        if _is_told(case, name):
            continue
        evidence += (
            f", and {_skill(alone, name)} when trained alone; alone, none of {len(tried)} other "
            f"settings of rate, scale and regularisation gives it any"
        )
        remedy = "the features may hold nothing about this target: supply others"
        yield Finding("uninformative", name, evidence, remedy)


def _is_told(case: Case, name: str) -> bool:
    """True if a simple prediction without a network has skill inside the training split."""
    data = case.first.data
    task = next(t for t in case.original.tasks if t.name == name)
    if data.train.overlap > 1 or (rows := rows_of(data, task)) is None:
        return False
    skill = skill_within(rows["train"])
    return skill is not None and skill.low > 0


def unexplained(case: Case, control: Probe, name: str) -> Finding:
    """The finding on a task without skill for which no cause was found."""
    evidence = (
        f"its skill on the validation split is {_skill(case.now, name)}, and "
        f"{_skill(control, name)} after training on shuffled targets, where nothing can be "
        f"learned; {case.probes} short trainings found no cause"
    )
    remedy = (
        "check that each label stands in the row of its features, that the features can tell the "
        "target, and train for longer"
    )
    return Finding("no_skill", name, evidence, remedy)


def _skill(probe: Probe, name: str) -> str:
    skill = probe.measured(name)
    return "not measurable" if skill is None else f"{skill.value:.1%} ± {skill.error:.1%}"


def _tried(case: Case, name: str) -> Iterator[tuple[str, Probe]]:
    """Probes of the task alone with other settings, and those in words."""
    spec, usual = case.spec, settings.usual(case)
    for edits in ((usual,) if usual else ()) + learning_rate.around(spec):
        probe = case.probe_with(*_alone(case, name), *edits)
        if probe is not None:
            yield ", ".join(map(str, edits)), probe


def _alone(case: Case, name: str) -> tuple[Edit, ...]:
    """The edits that leave the task without the others."""
    task = next(t for t in case.spec.tasks if t.name == name)
    return (
        Edit(("tasks",), [task.model_dump(mode="json")]),
        Edit(("balance",), {"kind": "fixed"}),
        Edit(("gates",), []),
        Edit(("train", "early_stop"), None),
        Edit(("checkpoint", "best_of"), None),
        Edit(("checkpoint", "best_metric"), None),
    )
