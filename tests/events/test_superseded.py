"""One rule decides which events a return to a checkpoint supersedes, for every reader of a run."""

from __future__ import annotations

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
