"""The verdict on each case: is the fault named, does the remedy help, is the twin clean?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from tests.bench.faults.case import Case
from tests.bench.faults.measure import twin_step
from tests.bench.faults.results import Results
from tests.bench.faults.truths import SYMPTOMS, TRUTHS, cause, names

Verdict = Literal["named", "wrong", "silent", "refused", "failed"]
Remedy = Literal["helps", "harms", "in vain", "none", "not tried"]
RISE = 0.05
"""Least change of a task's validation skill, mean of the seeds, that counts."""
FLOOR = -1.0
"""Skill of a run that failed, and the least that is reckoned with."""
Skills = dict[str, float]


@dataclass(frozen=True)
class Score:
    """What the diagnosis made of a case."""

    case: Case
    verdict: Verdict
    causes: list[str]
    """Causes of its findings, each once, in their order."""
    right: list[str]
    """Those of them that name a fault of the case."""
    recall: float
    """Share of the case's faults that are named."""
    remedy: Remedy
    """What the edits offered do to validation skill; none: no edit was offered."""
    skills: dict[str, Skills]
    """Mean validation skill of each task, by variant."""
    twin: str
    """Step that diagnosed its twin."""
    alarms: list[str] | None
    """Causes found on the twin; None if it was not, or could not be, diagnosed."""

    @property
    def mendable(self) -> bool:
        """True if an edit of the training can be a remedy."""
        return all(TRUTHS[kind].mendable for kind in self.case.faults)


def score(case: Case, results: Results) -> Score | None:
    """The score of a case; None as long as its faulty spec is not diagnosed."""
    faulty = results.get(f"{case.name}: diagnose")
    if faulty is None:
        return None
    twin, trained = results.get(twin_step(case)), results.get(f"{case.name}: train")
    spec = case.variant("faulty").spec
    printed = (faulty["printed"] or {}).get("findings", [])
    findings = [each for each in printed if cause(each) not in SYMPTOMS]
    right = [f for f in findings if any(names(f, kind, spec) for kind in case.faults)]
    named = [k for k in case.faults if any(names(f, k, spec) for f in findings)]
    skills = {name: _skills(row) for name, row in trained["printed"].items()} if trained else {}
    edited = bool((faulty["printed"] or {}).get("patch"))
    return Score(
        case,
        _verdict(faulty, findings, right),
        _causes(findings),
        _causes(right),
        len(named) / len(case.faults),
        _remedy(skills) if edited else "none",
        skills,
        twin_step(case),
        alarms(twin) if twin else None,
    )


def alarms(line: dict[str, Any]) -> list[str] | None:
    """The causes found on a sound problem; None if it could not be diagnosed."""
    printed = line["printed"]
    return None if printed is None else _causes(printed.get("findings", []))


def _verdict(line: dict[str, Any], findings: list[Any], right: list[Any]) -> Verdict:
    if line["printed"] is None:
        return "refused" if line["code"] == 2 else "failed"
    if not findings:
        return "silent"
    return "named" if right else "wrong"


def _causes(findings: list[Any]) -> list[str]:
    return list(dict.fromkeys(map(cause, findings)))


def _skills(row: Any) -> Skills:
    """Each task's mean validation skill in a row of `compare`; empty if a run failed."""
    if not row or row["failed"]:
        return {}
    means = {name: task["val_skill"]["mean"] for name, task in row["tasks"].items()}
    return {name: math.nan if mean is None else mean for name, mean in means.items()}


def _remedy(skills: dict[str, Skills]) -> Remedy:
    if "remedied" not in skills:
        return "not tried"
    before, after = skills["faulty"], skills["remedied"]
    rises = [_known(after, task) - _known(before, task) for task in skills["repaired"]]
    if min(rises) < -RISE:
        return "harms"
    return "helps" if max(rises) > RISE else "in vain"


def _known(skills: Skills, task: str) -> float:
    """A skill for comparisons; a failed run has the least, one that cannot be told has none."""
    if not skills:
        return FLOOR
    value = skills.get(task, math.nan)
    return 0.0 if math.isnan(value) else max(value, FLOOR)
