"""A line is an event if it has what the readers of a run rely on."""

from __future__ import annotations

import math

import pytest

from job.events.well_formed import COUNTS, is_event
from tests.support.fake_history import Recorded


def recorded() -> Recorded:
    """A run with an event of every kind, and numbers that are not finite."""
    run = Recorded("a", "b")
    run.begin()
    run.train(20, weight=math.inf)
    run.save()
    run.alarm("a")
    run.gate(passed=False, measured=None)
    run.resume(0)
    run.finish()
    return run


def test_every_event_that_a_run_writes_passes() -> None:
    """Whatever its kind, with nulls and flags, and without fields of younger versions."""
    lines = recorded().lines
    assert len({line["event"] for line in lines}) == 8
    assert all(map(is_event, lines))
    for line in lines:
        if line["event"] == "epoch":
            for task in line["tasks"].values():
                del task["cosines"], task["saturated"]
            assert is_event(line)


@pytest.mark.parametrize("wrong", [None, [], "text", 1, {}, {"seq": 1}, {"event": "step"}])
def test_other_values_do_not(wrong: object) -> None:
    """Neither other JSON nor a part of the envelope is an event."""
    assert not is_event(wrong)


def test_no_required_field_may_be_missing_or_of_another_type() -> None:
    """Of any event: without its time, its tasks or a count, or with text for a number, it fails."""
    for line in recorded().lines:
        for name in {"ts", "seq", "event", "tasks", *COUNTS} & line.keys():
            assert not is_event({k: v for k, v in line.items() if k != name})
            assert not is_event({**line, name: [None]})
        for task in line.get("tasks", {}):
            assert not is_event({**line, "tasks": {task: {}}})
