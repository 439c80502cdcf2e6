"""The tables of the score card, as markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from tests.bench.faults.score import Score

DEEPFD = "DeepFD (Cao et al., ICSE 2022), as published: recall 0.55, precision 0.37"
"""On its own 58 real faults, not on these."""


HEADS = (
    "case",
    "faults",
    "verdict",
    "found",
    "edits",
    "validation skill: faulty → edited (twin)",
    "found on the twin",
)


def case_table(scores: Sequence[Score]) -> Iterator[str]:
    """A line for each case: what was found (in bold: right), and what the edits do."""
    yield f"| {' | '.join(HEADS)} |"
    yield "|---" * len(HEADS) + "|"
    for each in scores:
        cells = (
            each.case.name.replace("_", " "),
            ", ".join(each.case.faults).replace("_", " "),
            each.verdict,
            ", ".join(f"**{c}**" if c in each.right else c for c in each.causes).replace("_", " "),
            each.remedy,
            "; ".join(_skills(each)),
            _alarms(each.alarms),
        )
        yield f"| {' | '.join(cells)} |"


def totals(title: str, scores: Sequence[Score]) -> Iterator[str]:
    """What the cases add up to."""
    counts = {v: sum(each.verdict == v for each in scores) for v in _VERDICTS}
    said = sum(len(each.causes) for each in scores)
    right = sum(len(each.right) for each in scores)
    recall = sum(each.recall for each in scores) / max(len(scores), 1)
    mendable = [each for each in scores if each.mendable]
    data = [each for each in scores if not each.mendable]
    twins = {each.twin: each.alarms for each in scores}
    clean = [found for found in twins.values() if found is not None]
    told = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n)
    edited = sum(each.remedy != "none" for each in data)
    yield f"{title}: {len(scores)} faults; {told}"
    yield f"- recall {recall:.2f}: mean share of a case's faults that are named"
    yield f"- precision {right / said if said else math.nan:.2f}: of {said} causes found on them"
    yield f"- edits help {_count(mendable, 'helps')} of {len(mendable)} faults of the training"
    yield f"- edits harm a task in {_count(scores, 'harms')} cases"
    yield f"- edits are offered for {edited} of {len(data)} faults of the data"
    yield f"- findings on {sum(map(bool, clean))} of {len(clean)} different twins that it diagnoses"
    yield f"- beside it: {DEEPFD}"


_VERDICTS = ("named", "wrong", "silent", "refused", "failed")


def healthy_table(found: dict[str, list[list[str] | None]]) -> Iterator[str]:
    """A line for each healthy problem: on how many seeds there was a finding, and which."""
    yield "| problem | seeds with a finding | found |"
    yield "|---|---|---|"
    for name, seeds in found.items():
        causes = sorted({cause for each in seeds for cause in each or ()})
        refused = sum(each is None for each in seeds)
        more = [f"refused on {refused}"] if refused else []
        yield f"| {name} | {sum(map(bool, seeds))} of {len(seeds)} | {', '.join(causes + more)} |"
    runs = [each for seeds in found.values() for each in seeds if each is not None]
    yield ""
    yield f"healthy: findings in {sum(map(bool, runs))} of {len(runs)} diagnoses"


def _count(scores: Sequence[Score], remedy: str) -> int:
    return sum(each.remedy == remedy for each in scores)


def _alarms(found: list[str] | None) -> str:
    return "not diagnosed" if found is None else ", ".join(found).replace("_", " ") or "clean"


def _skills(each: Score) -> Iterator[str]:
    """`task .10 → .90 (.95)` for each task of the twin, if edits were offered."""
    for task in each.skills.get("repaired", {}) if "remedied" in each.skills else ():
        values = {
            name: f"{skills[task]:.2f}" if task in skills else "failed"
            for name, skills in each.skills.items()
        }
        yield f"{task} {values['faulty']} → {values['remedied']} ({values['repaired']})"
