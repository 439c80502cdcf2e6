"""One rule decides which events a return to a checkpoint supersedes, for every reader of a run."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from job.events.superseded import OF_TRAINING, SupersededEvents

RETURN = {"event": "superseded", "seq": 9, "step": 1, "from_seq": 4, "to_seq": 8}


def test_training_in_the_range_counts_no_more() -> None:
    """Steps, epochs, gates and an end in the range are superseded; outside of it they count."""
    superseded = SupersededEvents([RETURN])
    for kind in OF_TRAINING:
        counting = [
            n for n in range(1, 12) if superseded.counts({"event": kind, "seq": n, "step": 1})
        ]
        assert counting == [1, 2, 3, 9, 10, 11]


def test_other_kinds_stay_true() -> None:
    """An alarm, a start, a saved checkpoint and the return itself happened, and stay."""
    superseded = SupersededEvents([RETURN])
    for kind in ("alarm", "run.started", "checkpoint.saved", "superseded"):
        assert superseded.counts({"event": kind, "seq": 5})


def test_every_return_that_supersedes_an_event_is_named() -> None:
    """A step that two returns took back is superseded by both; other events are not collected."""
    wider = RETURN | {"seq": 20, "from_seq": 2, "to_seq": 19}
    superseded = SupersededEvents([RETURN, {"event": "step", "seq": 10}, wider])
    assert superseded.returns == [RETURN, wider]
    assert superseded.of({"event": "step", "seq": 5}) == [RETURN, wider]
    assert superseded.of({"event": "step", "seq": 3}) == [wider]


def test_a_huge_range_costs_nothing() -> None:
    """A range is compared, not spelled out: one of 10^18 events takes no memory."""
    superseded = SupersededEvents([RETURN | {"to_seq": 10**18}])
    assert not superseded.counts({"event": "step", "seq": 10**17})


class Counted(dict[str, Any]):
    """An event that counts how often it is looked at."""

    looks = 0

    def __getitem__(self, key: str) -> Any:
        type(self).looks += 1
        return super().__getitem__(key)


def test_many_returns_do_not_slow_each_event_down() -> None:
    """However often a run was resumed, an event is held against the returns near it alone."""
    many = 2000
    returns = [
        Counted(RETURN, from_seq=10 * n + 1, to_seq=10 * n + 4, seq=10 * n + 5) for n in range(many)
    ]
    superseded = SupersededEvents(returns)
    assert superseded.counts({"event": "step", "seq": 10 * many})  # sorts them
    Counted.looks = 0
    counting = [superseded.counts({"event": "step", "seq": seq}) for seq in range(1, 10 * many)]
    assert counting.count(False) == 4 * many
    assert Counted.looks <= 2 * len(counting)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 20)), max_size=8), st.booleans())
def test_returns_in_any_order_and_within_each_other(
    ranges: list[tuple[int, int]], asked_between: bool
) -> None:
    """Each event has just the returns whose range it is in, whenever they were added."""
    returns: list[dict[str, Any]] = [
        RETURN | {"from_seq": first, "to_seq": first + more} for first, more in ranges
    ]
    superseded = SupersededEvents()
    for each in returns:
        superseded.add(each)
        if asked_between:
            superseded.counts({"event": "step", "seq": 7})
    for seq in range(62):
        of = superseded.of({"event": "step", "seq": seq})
        expected = [each for each in returns if each["from_seq"] <= seq <= each["to_seq"]]
        assert sorted(map(id, of)) == sorted(map(id, expected))
