"""The bench of real faults: its cases are whole, and what it makes of a finding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from job.data.dataset import load
from job.spec.read import read_spec
from job.train.build.check_own import check_own
from job.train.build.parts import check_parts
from tests.bench.faults.case import Case, cases, half_of, write
from tests.bench.faults.healthy import HEALTHY
from tests.bench.faults.measure import twin_step
from tests.bench.faults.problems import Problem
from tests.bench.faults.results import FILE, Results
from tests.bench.faults.score import score
from tests.bench.faults.truths import TRUTHS, names

CASES = {case.name: case for case in cases()}


def validate(problem: Problem, folder: Path) -> None:
    """Raise InputError if `job validate` would refuse it."""
    spec = read_spec(write(problem, folder, "spec"))
    data = load(spec, folder)
    check_own(spec, data)
    check_parts(spec, data)


@pytest.mark.parametrize("name", CASES)
def test_both_variants_validate(name: str, tmp_path: Path) -> None:
    """A fault is one that `validate` lets pass, and differs from its twin."""
    variants = [CASES[name].variant(which) for which in ("faulty", "repaired")]
    for problem, folder in zip(variants, ("faulty", "repaired"), strict=True):
        validate(problem, tmp_path / folder)
    faulty, repaired = variants
    assert faulty.spec != repaired.spec or CASES[name].damage


@pytest.mark.parametrize("name", CASES)
def test_a_case_says_where_it_is_from_and_what_is_true_of_it(name: str) -> None:
    """Sources, a story and known kinds of fault stand in its file, which lies in the right half."""
    case = CASES[name]
    assert case.sources
    assert all(map(str.strip, case.sources))
    assert case.story.endswith(".")
    assert case.faults
    assert set(case.faults) <= TRUTHS.keys()
    assert case.half == half_of(name)


def test_there_are_faults_enough_in_each_half() -> None:
    """At least 30 faults, and no half without many of them; 20 healthy problems of 6 domains."""
    sizes = {
        half: sum(case.half == half for case in CASES.values())
        for half in ("development", "held_out")
    }
    assert min(sizes.values()) >= 15
    assert sum(sizes.values()) >= 30
    assert len(HEALTHY) >= 20
    assert len({name.split(":")[0] for name in HEALTHY}) >= 6


RAISE = {"op": "replace", "path": "/optimizer/lr", "value": 0.1}
LOWER = {"op": "add", "path": "/optimizer", "value": {"lr": 1e-4}}


@pytest.mark.parametrize(
    ("cause", "patch", "kind", "right"),
    [
        ("learning_rate", [RAISE], "learning_rate_low", True),
        ("learning_rate", [LOWER], "learning_rate_low", False),
        ("learning_rate", [LOWER], "learning_rate_high", True),
        ("learning_rate", [RAISE], "learning_rate_high", False),
        ("learning_rate", [], "learning_rate_high", True),
        ("Split shift", [], "shift", True),
        ("overfitting", [], "shift", False),
        ("of its own making", [], "shift", False),
    ],
)
def test_a_finding_names_a_fault_by_cause_and_direction(
    cause: str, patch: list[Any], kind: str, right: bool
) -> None:
    """Spelling is forgiven, another cause is not, nor a learning rate that goes the wrong way."""
    spec = {"optimizer": {"lr": 0.01}}
    assert names({"mechanism": cause, "patch": patch}, kind, spec) == right


def row(**skills: float) -> dict[str, Any]:
    return {
        "failed": [],
        "tasks": {n: {"val_skill": {"mean": v, "sd": 0.0}} for n, v in skills.items()},
    }


def measured(folder: Path, case: Case, finding: dict[str, Any], **remedied: float) -> Results:
    """Results as the bench writes them: one finding on the faulty spec, none on its twin."""
    results = Results(folder)
    patch = [RAISE] if remedied else []
    printed = {"findings": [finding], "patch": patch}
    results.add(f"{case.name}: diagnose", {"code": 7, "printed": printed})
    results.add(twin_step(case), {"code": 0, "printed": {"findings": []}})
    rows = {"faulty": row(digit=0.1, height=0.2), "repaired": row(digit=0.9, height=0.9)}
    if remedied:
        rows["remedied"] = row(**remedied)
    results.add(f"{case.name}: train", {"printed": rows})
    return results


@pytest.mark.parametrize(
    ("cause", "remedied", "verdict", "remedy"),
    [
        ("learning_rate", {"digit": 0.8, "height": 0.2}, "named", "helps"),
        ("learning_rate", {"digit": 0.8, "height": 0.1}, "named", "harms"),
        ("starved", {"digit": 0.12, "height": 0.2}, "wrong", "in vain"),
        ("starved", {}, "wrong", "none"),
        ("no_skill", {}, "silent", "none"),
    ],
)
def test_a_score_is_of_names_and_of_skill(
    cause: str, remedied: dict[str, float], verdict: str, remedy: str, tmp_path: Path
) -> None:
    """A cause is judged by its name, and an edit by what it does to validation skill."""
    case = CASES["adam_at_a_tenth"]
    found = score(case, measured(tmp_path, case, {"mechanism": cause}, **remedied))
    assert found is not None
    assert (found.verdict, found.remedy, found.alarms) == (verdict, remedy, [])


def test_results_survive_a_line_that_was_cut_off(tmp_path: Path) -> None:
    """A bench that is killed in the middle of a line goes on with all lines before it."""
    Results(tmp_path).add("first", {"code": 0})
    path = tmp_path / FILE
    path.write_text(path.read_text("utf-8") + '{"step": "sec', "utf-8")
    after = Results(tmp_path)
    assert "first" in after
    assert "second" not in after
    after.add("second", {"code": 7})
    again = Results(tmp_path)
    assert again["second"]["code"] == 7
    assert again["first"]["code"] == 0
