"""Stored objects that are damaged or hostile: one line each, and bounded work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from job.record.cancel import CancelRequest
from job.record.claim import claim, finished_code
from job.record.document import Contents, Damaged, seal
from job.record.history import (
    Tail,
    counting_backwards,
    last_seq,
    read_events,
    read_first,
    read_history,
    stream_history,
)
from job.record.lease import LeaseRecord
from job.record.pods import PodsRecord
from job.record.recover_index import rebuild_index
from job.record.result import Result
from job.record.run_index import Fences, RunIndex, RunIndexStore
from job.record.segments import segment_name
from job.record.status import Boots, Status
from job.spec.read import read_spec
from job.store import Store
from job.store.directory import DirectoryStore
from tests.support.fake_history import whole
from tests.support.tiny_job import write

RUN = "small/r"
KINDS: list[type[Contents]] = [
    *(Boots, CancelRequest, LeaseRecord, PodsRecord, Result, RunIndex, Status),
]
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
HOSTILE: dict[str, bytes] = {
    "nested": DEEP,
    "nested list": b"[" * 100_000,
    "empty": b"",
    "no JSON": b"\x00\xff\xfe",
    "another type": b"[1, 2]",
    "a number": b"1",
    "a long number": b'{"sha256": "", "epoch": ' + b"9" * 10_000 + b"}",
    "infinite": b'{"sha256": "", "seconds": 1e999}',
    "no seal": b'{"phase": "training"}',
    "surrogate": b'{"sha256": "", "phase": "\\ud800"}',
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return DirectoryStore(tmp_path / "store")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", HOSTILE)
def test_documents(store: Store, kind: type[Contents], how: str) -> None:
    """Whatever lies in place of a document, its reader raises Damaged with one short line."""
    store.put(kind.key(RUN), HOSTILE[how])
    with pytest.raises(Damaged, match=kind.FILE) as fault:
        kind.read(store, RUN)
    assert "\n" not in str(fault.value)
    assert len(str(fault.value)) < 500


def test_a_lease_of_a_process_that_is_no_number(store: Store) -> None:
    """Its holder is not known to be dead."""
    body = {"epoch": 1, "machine": "m", "process": "x" * 100, "seconds": 1, "beats": 0}
    store.put(LeaseRecord.key(RUN), seal({**body, "released": False}))
    found = LeaseRecord.read(store, RUN)
    assert found is not None
    assert not found.is_orphaned


@pytest.mark.parametrize(
    "wrong", [{"seconds": 1e9}, {"seconds": -1}, {"epoch": -1}, {"epoch": 10**400}]
)
def test_a_lease_that_nobody_was_granted(store: Store, wrong: dict[str, Any]) -> None:
    """A time that no spec allows is damage: nobody waits for it."""
    body = {"epoch": 1, "machine": "m", "process": "1@1", "seconds": 1, "beats": 0}
    store.put(LeaseRecord.key(RUN), seal({**body, "released": False, **wrong}))
    with pytest.raises(Damaged, match=next(iter(wrong))):
        LeaseRecord.read(store, RUN)


def test_an_index_that_names_anything_else(store: Store) -> None:
    """A checkpoint's folder is one that a run writes: no path leads out of the run."""
    for folder in ("../other/checkpoints/1-1", "events", "checkpoints/1-1/x", "checkpoints/1-x"):
        kept = {"folder": folder, "step": 1, "manifest": ""}
        store.put(RunIndex.key(RUN), seal({"epoch": 1, "spec_hash": "", "checkpoints": [kept]}))
        with pytest.raises(Damaged, match=r"checkpoints\.0\.folder"):
            RunIndex.read(store, RUN)


# --- segments -------------------------------------------------------------------------------------


def put_raw(store: Store, data: bytes, epoch: int = 1, first: int = 1, last: int = 1) -> None:
    """A segment whose name and digest are right, whatever it holds."""
    store.put(f"{RUN}/events/{segment_name(epoch, first, last, data)}", data)


STEP = whole({"event": "step", "seq": 1, "step": 1})
LINES: dict[str, bytes] = {
    "no JSON": b"garbage\n",
    "nested": b"[" * 100_000 + b"\n",
    "no object": b"[1]\n",
    "no event": b'{"seq": 1}\n',
    "no time": b'{"seq": 1, "event": "step"}\n',
    "text for a number": json.dumps(STEP | {"step": "one"}).encode() + b"\n",
    "fields missing": b'{"seq": 1, "ts": "2026-11-23T12:00:00Z", "event": "run.finished"}\n',
    "tasks are no objects": json.dumps(STEP | {"tasks": {"a": 1}}).encode() + b"\n",
    "tasks lack fields": json.dumps(STEP | {"tasks": {"a": {"loss": 1}}}).encode() + b"\n",
    "too few lines": b"",
    "too many lines": b"1\n2\n",
}
READERS: dict[str, Callable[[Store], object]] = {
    "history": lambda store: read_history(store, RUN),
    "events": lambda store: list(read_events(store, RUN)),
    "stream": lambda store: list(stream_history(store, RUN)),
    "last": lambda store: next(counting_backwards(store, RUN), None),
    "first": lambda store: read_first(store, RUN),
    "tail": lambda store: list(Tail(store, RUN).new()),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("how", LINES)
def test_a_sealed_segment_of_garbage(store: Store, how: str, reader: str) -> None:
    """Every reader of a run raises Damaged with one line."""
    RunIndexStore(store, RUN, fenced=False).write(RunIndex(epoch=1, spec_hash=""))
    put_raw(store, LINES[how])
    with pytest.raises(Damaged) as fault:
        READERS[reader](store)
    assert "\n" not in str(fault.value)


def test_an_event_of_a_newer_version_passes(store: Store) -> None:
    """A kind that this version does not know needs no field but the envelope's."""
    event = {"seq": 1, "ts": "2026-11-23T12:00:00Z", "event": "moon.rises"}
    RunIndexStore(store, RUN, fenced=False).write(RunIndex(epoch=1, spec_hash=""))
    put_raw(store, json.dumps(event).encode() + b"\n")
    assert read_history(store, RUN) == [event]


def test_fences_are_sparse() -> None:
    """Between two fences the later one holds; beyond the last one there is none."""
    fences = Fences({1: 10, 10**9: 30})
    assert [fences.last(epoch) for epoch in (1, 2, 10**9 - 1, 10**9, 10**9 + 1)] == [
        *(10, 30, 30, 30, None),
    ]
    assert fences.highest == 30
    assert (Fences({}).last(1), Fences({}).highest) == (None, 0)


def test_a_segment_of_epoch_a_billion(store: Store) -> None:
    """With the index gone, a planted one costs nothing, and the run begins above it."""
    put_raw(store, json.dumps(STEP).encode() + b"\n", epoch=10**9)
    assert last_seq(store, RUN, {}) == 1
    index = rebuild_index(store, RUN)
    assert index is None


# --- a run that is taken --------------------------------------------------------------------------


def test_what_an_earlier_life_left_does_not_count(tmp_path: Path) -> None:
    """A run of which some events are left, but neither index nor checkpoint, begins anew: with an
    alarm, a higher epoch, and event 1; the old events stay where they are, and count no more."""
    store, spec = DirectoryStore(tmp_path / "store"), read_spec(write(tmp_path))
    put_raw(store, json.dumps(STEP | {"seq": 50}).encode() + b"\n", 3, 50, 50)
    claimed = claim(store, spec, RUN, take_over=False, must_exist=False)
    assert claimed.lease.epoch == 4
    assert claimed.last_seq == 0
    assert [kind for kind, _ in claimed.alarms] == ["events_missing"]
    put_raw(store, json.dumps(STEP).encode() + b"\n", 4)
    assert [event["seq"] for event in read_history(store, RUN)] == [1]
    assert len(list(store.list(f"{RUN}/events/"))) == 2


@pytest.mark.parametrize("how", HOSTILE)
def test_a_spec_that_cannot_be_read(tmp_path: Path, how: str) -> None:
    """A stored spec of any content is replaced, and an alarm says so."""
    store, spec = DirectoryStore(tmp_path / "store"), read_spec(write(tmp_path))
    claim(store, spec, RUN, take_over=False, must_exist=False).lease.release()
    store.put(f"{RUN}/spec.json", HOSTILE[how])
    claimed = claim(store, spec, RUN, take_over=False, must_exist=True)
    assert dict(claimed.alarms).keys() == {"spec_damaged"}
    assert store.get(f"{RUN}/spec.json").data == spec.canonical().encode()


@pytest.mark.parametrize("how", HOSTILE)
def test_a_result_that_cannot_be_read_decides_nothing(tmp_path: Path, how: str) -> None:
    """With the index gone too, the run has not finished."""
    store, spec = DirectoryStore(tmp_path / "store"), read_spec(write(tmp_path))
    store.put(Result.key(RUN), HOSTILE[how])
    assert finished_code(store, RUN, spec) is None


def test_a_result_of_another_spec(tmp_path: Path) -> None:
    """A finished run whose index is gone still belongs to its spec."""
    store = DirectoryStore(tmp_path / "store")
    spec = read_spec(write(tmp_path))
    result = Result(reason="succeeded", exit_code=0, spec_hash="another")
    store.put(Result.key(RUN), seal(result.body()))
    with pytest.raises(Exception, match="begun with another spec"):
        finished_code(store, RUN, spec)


def test_an_old_result_decides_too(tmp_path: Path) -> None:
    """A run that ended before its first checkpoint, with its index gone, gets it back."""
    store, spec = DirectoryStore(tmp_path / "store"), read_spec(write(tmp_path))
    put_raw(store, json.dumps(STEP).encode() + b"\n")
    result = Result(reason="failed", exit_code=1, spec_hash=spec.content_hash())
    store.put(Result.key(RUN), seal(result.body()))
    assert finished_code(store, RUN, spec) == 1
    index = RunIndex.read(store, RUN)
    assert index is not None
    assert index.finished == result
    assert finished_code(store, RUN, spec) == 1
    assert [event["seq"] for event in read_history(store, RUN)] == [1]
