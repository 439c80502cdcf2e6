"""The diagnosis of public data sets with the commonest mistakes: settings, scale, and the data."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from job.data.dataset import load
from job.diagnose.case import Finding, Watch
from job.diagnose.diagnose import Diagnosis, diagnose, permuted
from job.diagnose.probe import knows_beyond
from job.diagnose.show import diagnosis_json
from job.spec.read import parse_spec
from tests.bench.outside import FAULTS, healthy, planted
from tests.support.command import job as command

QUICK = {("wine", "features small"), ("friedman", "rows off by one")}


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        pytest.param(data, fault, marks=[] if (data, fault) in QUICK else pytest.mark.slow)
        for data, fault in (
            ("friedman", "rate too low"),
            ("wine", "weight decay"),
            ("cancer", "dropout"),
            ("wine", "clip"),
            ("digits", "whole batch"),
            ("cancer", "width of one"),
            ("wine", "features small"),
            ("digits", "features large"),
            ("friedman", "one feature large"),
            ("cancer", "target far off"),
            ("wine", "target tiny"),
        )
    ],
)
def test_a_mistake_is_mended(data: str, fault: str) -> None:
    """It is named, and its edits give every task skill on the validation split."""
    found = planted(data, fault).diagnose()
    assert {f.mechanism for f in found.findings} & set(FAULTS[fault].named), found.findings
    for task in found.after.names:
        assert found.after.knows(task)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        pytest.param(data, fault, marks=[] if (data, fault) in QUICK else pytest.mark.slow)
        for data, fault in (
            ("friedman", "rows off by one"),
            ("friedman", "splits differ"),
            ("digits", "training labels shuffled"),
            ("digits", "outliers"),
            ("wine", "copies"),
        )
    ],
)
def test_a_fault_of_the_data_has_no_edit(data: str, fault: str) -> None:
    """It is named with numbers, and no change of the training is offered in its place."""
    found = planted(data, fault).diagnose()
    fitting = [f for f in found.findings if f.mechanism in FAULTS[fault].named]
    assert fitting, found.findings
    assert all(any(c.isdigit() for c in f.evidence) for f in fitting)
    assert found.edits == []


@pytest.mark.slow
def test_features_that_differ_between_the_splits_concern_every_task() -> None:
    """Once they are named for one task, no setting is blamed for what another loses by them."""
    made = healthy("cancer", 1)
    made.arrays["x"][made.first_held_out :] *= 40
    found = made.diagnose()
    assert {f.mechanism for f in found.findings} == {"split_shift"}, found.findings
    assert found.edits == []


def test_a_control_says_that_it_is_one(tmp_path: Path) -> None:
    """With permuted targets nothing is blamed but the control."""
    made = healthy("wine", 0)
    made.spec["control"] = True
    spec = parse_spec(made.write(tmp_path).read_text())
    found = diagnose(spec, load(spec, tmp_path))
    assert [f.mechanism for f in found.findings] == ["control"]
    record = diagnosis_json(found, made.spec)
    assert record["control"]
    assert not any(task["knows"] for task in record["tasks"].values())


def test_knowledge_is_what_goes_beyond_the_control() -> None:
    """Both splits' skills have errors; that of permuted targets is none."""
    found = healthy("wine", 0).diagnose()
    assert found.findings == []
    assert found.control is not None
    skills = diagnosis_json(found, healthy("wine", 0).spec)["tasks"]["kind"]["skills"]
    assert skills["before"]["validation"]["low"] > 0
    assert skills["before"]["train"]["error"] > 0
    assert skills["control"]["validation"]["low"] < 0
    for task in found.before.names:
        assert knows_beyond(found.before, found.control, task)
        assert not knows_beyond(found.control, found.control, task)


def test_a_control_keeps_targets_and_weights_together(tmp_path: Path) -> None:
    """The tasks' targets of a split are permuted in one order, and none comes from elsewhere."""
    spec = parse_spec(healthy("wine", 0).write(tmp_path).read_text())
    data = load(spec, tmp_path)
    mixed = permuted(data, 0)
    for split, other in ((data.train, mixed.train), (data.validation, mixed.validation)):
        rows = list(
            zip(*(split.targets[n].flatten().tolist() for n in spec.task_names), strict=True)
        )
        moved = list(
            zip(*(other.targets[n].flatten().tolist() for n in spec.task_names), strict=True)
        )
        assert rows != moved
        assert sorted(rows) == sorted(moved)


class Impatient(Watch):
    """Interrupts the process as a terminal does, at the probe after the first finding."""

    def __init__(self) -> None:
        self.seen: list[Finding] = []
        self.tried: list[str] = []

    def trying(self, what: str) -> None:
        self.tried.append(what)
        if self.seen:
            os.kill(os.getpid(), signal.SIGINT)

    def finding(self, finding: Finding) -> None:
        self.seen.append(finding)


def test_an_interrupt_keeps_what_was_found(tmp_path: Path) -> None:
    """After Ctrl-C the findings so far are there, and what was tried was named."""
    spec = parse_spec(planted("wine", "outliers").write(tmp_path).read_text())
    watch = Impatient()
    found: Diagnosis = diagnose(spec, load(spec, tmp_path), watch=watch)
    assert found.cut == "interrupt"
    assert found.findings == watch.seen != []
    assert watch.tried[0] == "the spec as it is"


@pytest.mark.slow
def test_no_skill_is_exit_code_7(tmp_path: Path) -> None:
    """Where labels are shuffled, no edit is offered, and the exit code says that nothing is
    known."""
    path = planted("cancer", "all labels shuffled").write(tmp_path)
    ended = command(tmp_path, "diagnose", str(path), "--json")
    assert ended.returncode == 7, ended.stderr
    record = json.loads(ended.stdout)
    assert record["patch"] == []
    assert not any(task["knows"] for task in record["tasks"].values())
