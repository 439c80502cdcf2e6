"""Whatever became of a run, its readers get one history without a gap, or Damaged."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.record.document import Damaged
from job.record.history import (
    Tail,
    counting_backwards,
    last_seq,
    read_events,
    read_history,
)
from job.record.run_index import RunIndex, RunIndexStore
from job.record.segments import digest_of
from job.store import Missing, Store, Stored, Unavailable
from job.store.base import Entry
from job.store.directory import DirectoryStore
from tests.support.fake_history import whole

RUN = "name/run"
Line = dict[str, Any]


def put_segment(store: Store, epoch: int, events: list[Line]) -> str:
    """Store events as a process of that epoch does; returns the key."""
    data = "".join(json.dumps(whole(event)) + "\n" for event in events).encode()
    first, last = events[0]["seq"], events[-1]["seq"]
    key = f"{RUN}/events/{epoch:06d}-{first:012d}-{last:012d}-{digest_of(data)}.jsonl"
    store.put(key, data)
    return key


def put_index(store: Store, epoch: int, fences: dict[int, int]) -> None:
    index = RunIndexStore(store, RUN, fenced=True)
    index.read()
    index.write(RunIndex(epoch=epoch, spec_hash="", fences=fences))


@dataclass
class Past:
    """A run as processes write it: each takes over, goes back to a checkpoint, trains on."""

    store: Store
    epoch: int = 0
    last: int = 0
    """The last event that counts."""
    steps: dict[int, int] = field(default_factory=dict)
    """By step, the number of the event that counts."""
    fences: dict[int, int] = field(default_factory=dict)
    unsent: dict[int, list[Line]] = field(default_factory=dict)
    """By epoch, what its process may still write after another has taken over."""

    def attempt(self, back: int, steps: int, cuts: list[int], lost: int) -> None:
        """Take over, undo `back` steps, take `steps`; segments end after `cuts` events.

        The last `lost` events of the attempt were not stored when it was taken over.
        """
        self.fences = dict.fromkeys(range(1, self.epoch + 1), self.last) | self.fences
        self.epoch += 1
        put_index(self.store, self.epoch, self.fences)
        done = max(0, len(self.steps) - back)
        events: list[Line] = [{"event": "run.started"}]
        gone = [seq for step, seq in self.steps.items() if step > done]
        if gone:
            events += [{"event": "superseded", "from_seq": min(gone), "to_seq": self.last}]
        events += [{"event": "step", "step": done + k + 1} for k in range(steps)]
        for k, event in enumerate(events):
            event["seq"] = self.last + 1 + k
        lost = min(lost, len(events) - 1)
        sent = events[: len(events) - lost]
        self.unsent[self.epoch] = events[len(sent) :]
        for part in _cut(sent, cuts):
            put_segment(self.store, self.epoch, part)
        if any(e["event"] == "superseded" for e in sent):
            self.steps = {step: seq for step, seq in self.steps.items() if step <= done}
        self.steps |= {e["step"]: e["seq"] for e in sent if e["event"] == "step"}
        self.last = sent[-1]["seq"]


def _cut(events: list[Line], cuts: list[int]) -> list[list[Line]]:
    parts, first = [], 0
    for cut in [*cuts, len(events)]:
        if part := events[first : first + cut]:
            parts.append(part)
        first += cut
    return parts


attempts = st.lists(
    st.tuples(
        st.integers(0, 6), st.integers(0, 6), st.lists(st.integers(1, 4), max_size=3),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=5,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(attempts, st.booleans())
def test_one_gapless_history(past: list[tuple[int, int, list[int], int]], zombies: bool) -> None:
    """After any sequence of attempts every event that counts is read once, and each step once.

    Whether processes that were taken over write what they still had, afterwards, or do not.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Past(DirectoryStore(Path(folder)))
        for back, steps, cuts, lost in past:
            run.attempt(back, steps, cuts, lost)
        if zombies:
            for epoch, late in run.unsent.items():
                if late and epoch < run.epoch:
                    put_segment(run.store, epoch, late)
        events = list(read_events(run.store, RUN))
        assert [e["seq"] for e in events] == [*range(1, run.last + 1)]
        assert last_seq(run.store, RUN, run.fences) == run.last
        steps_read = [e for e in read_history(run.store, RUN) if e["event"] == "step"]
        assert {e["step"]: e["seq"] for e in steps_read} == run.steps
        assert [e["step"] for e in steps_read] == [*range(1, len(run.steps) + 1)]
        assert read_history(run.store, RUN, superseded=True) == events


def trained(store: Store) -> Past:
    """Two attempts; the first did steps 1 to 6, of which the second does 5 and 6 again."""
    past = Past(store)
    past.attempt(back=0, steps=6, cuts=[2, 2], lost=0)
    past.attempt(back=2, steps=4, cuts=[3], lost=0)
    return past


def test_what_is_superseded_is_left_out(tmp_path: Path) -> None:
    """Steps that were taken again appear once; both starts of the run stay."""
    store = DirectoryStore(tmp_path)
    trained(store)
    found = read_history(store, RUN)
    assert [e["event"] for e in found].count("run.started") == 2
    assert [e["step"] for e in found if e["event"] == "step"] == [1, 2, 3, 4, 5, 6, 7, 8]
    whole = read_history(store, RUN, superseded=True)
    assert [e["step"] for e in whole if e["event"] == "step"] == [
        1, 2, 3, 4, 5, 6, 5, 6, 7, 8
    ]  # fmt: skip


def test_a_missing_segment_shows(tmp_path: Path) -> None:
    """If any segment but the very last is gone, Damaged says which events are missing."""
    store = DirectoryStore(tmp_path)
    trained(store)
    keys = [entry.key for entry in store.list(f"{RUN}/events/")]
    assert len(keys) == 5
    for key in keys[:-1]:
        data = store.get(key).data
        store.delete(key)
        with pytest.raises(Damaged, match=r"events \d+ to \d+ of run name/run are missing"):
            read_history(store, RUN)
        store.put(key, data)
    read_history(store, RUN)


def test_a_missing_end_of_what_was_settled_shows(tmp_path: Path) -> None:
    """The loss of the last events before a takeover shows before the new process has written."""
    store = DirectoryStore(tmp_path)
    past = trained(store)
    put_index(store, 3, past.fences | {2: past.last})
    *_, newest = store.list(f"{RUN}/events/")
    store.delete(newest.key)
    with pytest.raises(Damaged, match=rf"to {past.last} of run"):
        read_history(store, RUN)
    assert last_seq(store, RUN, past.fences | {2: past.last}) == past.last  # no number twice


def test_a_zombie_is_seen_before_its_fence(tmp_path: Path) -> None:
    """A reader whose index is from before the takeover, or rebuilt, ignores late events too."""
    store = DirectoryStore(tmp_path)
    past = trained(store)
    late = [{"event": "step", "step": 7, "seq": past.fences[1] + 1}]
    put_segment(store, 1, late)
    assert last_seq(store, RUN, {}) == past.last
    assert last_seq(store, RUN, past.fences) == past.last


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    """One flipped bit of a segment raises Damaged, with the segment's key."""
    store = DirectoryStore(tmp_path)
    trained(store)
    key = next(store.list(f"{RUN}/events/")).key
    whole = store.get(key).data
    for bit in range(0, 8 * len(whole), 7):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / key).write_bytes(damaged)
        with pytest.raises(Damaged, match=f"{key} is damaged"):
            read_history(store, RUN)


def test_no_run(tmp_path: Path) -> None:
    """A run that is not there raises Missing, which says so."""
    with pytest.raises(Missing, match="has no run name/run"):
        read_history(DirectoryStore(tmp_path), RUN)


def test_a_run_without_events(tmp_path: Path) -> None:
    """A run that has been taken and has no event yet has an empty history."""
    store = DirectoryStore(tmp_path)
    put_index(store, 1, {})
    assert read_history(store, RUN) == []
    assert last_seq(store, RUN, {}) == 0


class Failing(DirectoryStore):
    """A store that fails at one object, so many times."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.failing: dict[str, int] = {}

    def get(self, key: str) -> Stored:
        if self.failing.get(key, 0):
            self.failing[key] -= 1
            raise Unavailable(key)
        return super().get(key)


def test_following_loses_nothing_to_a_store_that_fails(tmp_path: Path) -> None:
    """What was read before a failure is given out, what comes after it at the next look; once."""
    store = Failing(tmp_path)
    put_index(store, 1, {})
    keys = [put_segment(store, 1, [{"event": "step", "seq": n}]) for n in (1, 2, 3)]
    store.failing[keys[1]] = 1
    tail, given_out = Tail(store, RUN), list[int]()
    with pytest.raises(Unavailable):
        given_out.extend(e["seq"] for e in tail.new())
    assert given_out == [1]
    assert [e["seq"] for e in tail.new()] == [2, 3]
    assert list(tail.new()) == []


def test_following_passes_damage_once(tmp_path: Path) -> None:
    """A damaged segment raises Damaged once, and what follows it is given out."""
    store = DirectoryStore(tmp_path)
    put_index(store, 1, {})
    keys = [put_segment(store, 1, [{"event": "step", "seq": n}]) for n in (1, 2, 3)]
    store.put(keys[1], b"?")
    tail, given_out = Tail(store, RUN), list[int]()
    with pytest.raises(Damaged):
        given_out.extend(e["seq"] for e in tail.new())
    given_out += [e["seq"] for e in tail.new()]
    assert given_out == [1, 3]


def test_the_last_events_are_read_alone(tmp_path: Path) -> None:
    """The end of a long history does not need its beginning."""
    store = Failing(tmp_path)
    put_index(store, 1, {})
    keys = [put_segment(store, 1, [{"event": "step", "seq": n}]) for n in (1, 2, 3)]
    store.failing[keys[0]] = 99
    assert [e["seq"] for e in islice(counting_backwards(store, RUN), 2)] == [3, 2]


class Counting(DirectoryStore):
    """A store that counts the keys that it lists, and the objects that it reads."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.listed = self.read_objects = 0

    def list(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        for entry in super().list(prefix, after):
            self.listed += 1
            yield entry

    def get(self, key: str) -> Stored:
        self.read_objects += 1
        return super().get(key)


def test_following_lists_a_segment_once(tmp_path: Path) -> None:
    """One who follows a long run does not list all of it at each look."""
    store = Counting(tmp_path)
    put_index(store, 1, {})
    tail, given_out, many = Tail(store, RUN), list[int](), 40
    for n in range(1, many + 1):
        put_segment(store, 1, [{"event": "step", "seq": n}])
        for _ in range(3):
            given_out.extend(e["seq"] for e in tail.new())
    assert given_out == [*range(1, many + 1)]
    assert store.listed == many


def test_following_goes_on_where_what_was_missing_comes_late(tmp_path: Path) -> None:
    """After a gap all keys count again, whichever epoch has written what was missing."""
    store = DirectoryStore(tmp_path)
    put_index(store, 2, {})
    tail = Tail(store, RUN)
    put_segment(store, 2, [{"event": "step", "seq": 1}])
    assert [e["seq"] for e in tail.new()] == [1]
    put_segment(store, 2, [{"event": "step", "seq": 3}])
    assert list(tail.new()) == []
    put_segment(store, 1, [{"event": "step", "seq": 2}])
    assert list(tail.new()) == []  # of an epoch that was over
    put_segment(store, 2, [{"event": "step", "seq": 2}])
    assert [e["seq"] for e in tail.new()] == [2, 3]


def test_following_past_the_epoch_whose_keys_are_longer(tmp_path: Path) -> None:
    """The segments of an epoch of seven digits have keys before those of six, and are given out."""
    store = DirectoryStore(tmp_path)
    put_index(store, 10**6, {})
    tail = Tail(store, RUN)
    for n, epoch in enumerate((999_999, 10**6, 10**6), 1):
        put_segment(store, epoch, [{"event": "step", "seq": n}])
        assert [e["seq"] for e in tail.new()] == [n]


def test_counting_backwards(tmp_path: Path) -> None:
    """The events of the history, the last one first, with one segment read at a time."""
    store = Counting(tmp_path)
    trained(store)
    assert list(counting_backwards(store, RUN)) == read_history(store, RUN)[::-1]
    store.read_objects = 0
    next(counting_backwards(store, RUN))
    assert store.read_objects == 2  # the run index and a segment
