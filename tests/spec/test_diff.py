"""Differences between specs: one comparison for the resume, the report and `deploy.diff`."""

from __future__ import annotations

import copy
import json

from job.spec.diff import change_faults, differences
from job.spec.read import parse_spec
from tests.support.specs import FULL, edited, without


def test_equal_specs() -> None:
    """Equal specs have no differences."""
    assert differences([FULL, copy.deepcopy(FULL), FULL]) == []
    assert change_faults(FULL, copy.deepcopy(FULL)) == []


def test_a_changed_value() -> None:
    """A changed value is a row with its path and the value of each spec."""
    (row,) = differences([FULL, edited(("train", "epochs"), 9), FULL])
    assert row == ("$.train.epochs", (8, 9, 8))


def test_sections_of_a_list_are_matched_by_name() -> None:
    """A task that is gone does not shift the tasks behind it."""
    rows = dict(differences([FULL, without("tasks", 0)]))
    assert rows["$.tasks"] == (["type", "countdown"], ["countdown"])
    assert rows["$.tasks[type].outputs"] == (3, None)
    assert not [where for where in rows if where.startswith("$.tasks[countdown]")]


def test_gates_are_matched_by_place() -> None:
    """Sections without a name are matched by their place."""
    (row,) = differences([FULL, edited(("gates", 0, "drop"), 0.5)])
    assert row == ("$.gates[0].drop", (0.2, 0.5))


def test_faults_of_a_changed_spec() -> None:
    """A change since the run began is a fault with both values."""
    (fault,) = change_faults(FULL, edited(("train", "epochs"), 9))
    assert str(fault) == (
        "$.train.epochs: found 9; the run began with 8; set it back, or give the run another id"
    )


def test_a_control_that_is_gone_on_with_without_its_flag() -> None:
    """The spec's file is as it was: the flag is what is missing, or too much."""
    one, other = (
        json.loads(parse_spec(json.dumps(FULL | {"control": on})).canonical())
        for on in (False, True)
    )
    (fault,) = change_faults(other, one)
    assert str(fault) == (
        "$.control: found null; the run began with true; add --control, or give the run another id"
    )
    (fault,) = change_faults(one, other)
    assert fault.remedy.startswith("leave out --control, and control in the spec, or give")
