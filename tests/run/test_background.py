"""Waiting for work that may never return."""

from __future__ import annotations

import threading

import pytest

from job.background import GaveUp, wait_for, wait_seconds


def test_a_result_and_a_fault_are_passed_on() -> None:
    """What the work returns is returned, what it raises is raised, here."""
    assert wait_for(lambda: 7, lambda: False) == 7
    with pytest.raises(ZeroDivisionError):
        wait_for(lambda: 1 / 0, lambda: False)


def test_giving_up() -> None:
    """Work that hangs is left alone as soon as the caller gives up."""
    hanging = threading.Event()
    with pytest.raises(GaveUp):
        wait_for(hanging.wait, lambda: True)
    with pytest.raises(GaveUp):
        wait_seconds(hanging.wait, 0.01)
    hanging.set()
