"""Events reach the store whole and in order, by way of a local folder where it is down."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from job.claim import _settle_events
from job.document import Document
from job.heart import Heart
from job.journal import Journal
from job.lease import Held, Lease
from job.records import Records, Segment, UploadFailed, digest_of, spool_of, upload
from job.store import Forbidden, Store, StoreError, Unavailable, open_store
from job.store_directory import DirectoryStore

RUN = "name/run"


@pytest.fixture(autouse=True)
def spools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spools go where the test's files are."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


class Breakable(DirectoryStore):
    """A directory whose writes raise, while `broken` says what."""

    broken: StoreError | None = None
    left = 0
    """Writes that still pass."""

    def put(self, key: str, data: Any) -> str:
        if self.broken and self.left <= 0:
            raise self.broken
        self.left -= 1
        return super().put(key, data)


@pytest.fixture
def breakable(tmp_path: Path) -> Breakable:
    return Breakable(tmp_path / "store")


def records(store: Store, epoch: int = 1, offline: float = 60) -> Records:
    return Records(store, RUN, epoch, offline)


def write(to: Records, *seqs: int) -> None:
    for seq in seqs:
        event = {"seq": seq, "event": "step"}
        to(event, json.dumps(event))


def segments(store: Store) -> list[Segment]:
    found = [Segment.named(entry.key) for entry in store.list(f"{RUN}/events/")]
    return [segment for segment in found if segment is not None]


def stored(store: Store) -> list[int]:
    """Numbers of all events in the store, as its names sort."""
    lines = [line for s in segments(store) for line in store.get(s.key).data.splitlines()]
    return [json.loads(line)["seq"] for line in lines]


def test_a_segment_tells_what_is_in_it(store: Store) -> None:
    """Each flush makes one object; its name has epoch, first and last event, and a digest."""
    mine = records(store, epoch=3)
    write(mine, 5, 6, 7)
    mine.flush()
    mine.flush()  # of nothing makes nothing
    write(mine, 8)
    mine.flush()
    one, two = segments(store)
    assert (one.epoch, one.first, one.last) == (3, 5, 7)
    assert (two.epoch, two.first, two.last) == (3, 8, 8)
    data = store.get(one.key).data
    assert one.digest == digest_of(data)
    assert [json.loads(line) for line in data.decode().splitlines()] == [
        {"seq": seq, "event": "step"} for seq in (5, 6, 7)
    ]
    assert not list(mine.spool.iterdir())


@pytest.mark.parametrize("key", ["events/x", "events/1-2-3.jsonl", "events/a-1-2-d.jsonl", ""])
def test_other_names_are_no_segments(key: str) -> None:
    """What does not have a segment's name is not taken for one."""
    assert Segment.named(key) is None


def test_what_cannot_be_sent_waits_in_order(breakable: Breakable) -> None:
    """While the store is down segments wait; when it is back they arrive, all and in order."""
    mine = records(breakable)
    write(mine, 1, 2)
    mine.flush()
    breakable.broken = Unavailable("down")
    for seq in range(3, 9):
        write(mine, seq)
        mine.flush()
    assert stored(breakable) == [1, 2]
    assert mine.down_since is not None
    assert len(list(mine.spool.iterdir())) == 6
    breakable.left = 2  # back for a moment
    mine.flush()
    assert stored(breakable) == [1, 2, 3, 4]
    breakable.broken = None
    mine.flush()
    assert stored(breakable) == [*range(1, 9)]
    assert mine.down_since is None
    assert not list(mine.spool.iterdir())


def test_the_spool_outlives_its_process(breakable: Breakable) -> None:
    """What a process could not send is sent, unchanged, by one that starts here after it."""
    mine = records(breakable)
    breakable.broken = Unavailable("down")
    for seqs in ((1, 2), (3,), (4, 5, 6)):
        write(mine, *seqs)
        mine.flush()
    del mine
    breakable.broken = None
    upload(breakable, RUN, sorted(spool_of(breakable, RUN).glob("*.jsonl")))
    assert stored(breakable) == [1, 2, 3, 4, 5, 6]
    assert [(s.first, s.last) for s in segments(breakable)] == [(1, 2), (3, 3), (4, 6)]


def test_a_later_process_does_not_send_under_its_own_epoch(breakable: Breakable) -> None:
    """Segments of an earlier epoch in the spool are not touched by another epoch's flush."""
    breakable.broken = Unavailable("down")
    first = records(breakable, epoch=1)
    write(first, 1)
    first.flush()
    breakable.broken = None
    second = records(breakable, epoch=2)
    write(second, 1)
    second.flush()
    assert [(s.epoch, s.first) for s in segments(breakable)] == [(2, 1)]
    assert [path.name[:6] for path in first.spool.iterdir()] == ["000001"]


def test_runs_of_one_name_in_two_stores_do_not_meet(tmp_path: Path) -> None:
    """The spool belongs to a run in one store."""
    one, two = (DirectoryStore(tmp_path / name) for name in "ab")
    assert spool_of(one, RUN) != spool_of(two, RUN)
    assert spool_of(one, RUN) != spool_of(one, "name/other")


def test_too_long_out_of_reach(breakable: Breakable) -> None:
    """Past the spec's bound the run is told, with the place of its events and the reason."""
    mine = records(breakable, offline=0.2)
    breakable.broken = Unavailable("no route to the store")
    write(mine, 1)
    mine.flush()
    time.sleep(0.3)
    write(mine, 2)
    with pytest.raises(UploadFailed, match=rf"events wait in {mine.spool}.*no route"):
        mine.flush()
    kept = sorted(mine.spool.iterdir())
    assert [json.loads(path.read_text())["seq"] for path in kept] == [1, 2]


def test_being_back_resets_the_clock(breakable: Breakable) -> None:
    """Two short outages are not one long one."""
    mine = records(breakable, offline=0.5)
    for seq in range(1, 4):
        breakable.broken = Unavailable("down")
        write(mine, seq)
        mine.flush()
        time.sleep(0.3)
        breakable.broken = None
        mine.flush()
    assert stored(breakable) == [1, 2, 3]


def test_too_much_waits(breakable: Breakable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full spool ends the run; nothing in it is dropped."""
    monkeypatch.setattr("job.records.SPOOL_BYTES", 200)
    mine = records(breakable)
    breakable.broken = Unavailable("down")
    seq = 0

    def fill() -> None:
        nonlocal seq
        while seq < 100:
            seq += 1
            write(mine, seq)
            mine.flush()

    with pytest.raises(UploadFailed, match="MB of events wait"):
        fill()
    held = [json.loads(path.read_text())["seq"] for path in sorted(mine.spool.iterdir())]
    assert held == [*range(1, seq + 1)]
    assert 200 < sum(path.stat().st_size for path in mine.spool.iterdir()) < 300


def test_wrong_credentials_are_not_waited_for(breakable: Breakable) -> None:
    """Forbidden is told at once; the events stay in the spool."""
    mine = records(breakable)
    breakable.broken = Forbidden("403")
    write(mine, 1)
    with pytest.raises(Forbidden):
        mine.flush()
    assert len(list(mine.spool.iterdir())) == 1


class Said(BaseModel):
    """An event for tests."""

    event: str = "step"
    by: int


def test_many_threads(breakable: Breakable) -> None:
    """Events of four threads, flushed by two, over outages: every number once, in order."""
    mine = records(breakable)
    journal = Journal("run", [mine])
    done = threading.Event()

    def say(by: int) -> None:
        for _ in range(100):
            journal.emit(Said(by=by))

    def flush() -> None:
        while not done.is_set():
            mine.flush()

    writers = [threading.Thread(target=say, args=(k,)) for k in range(4)]
    flushers = [threading.Thread(target=flush) for _ in range(2)]
    for thread in [*writers, *flushers]:
        thread.start()
    breakable.broken = Unavailable("down")
    for thread in writers:
        thread.join()
    breakable.broken = None
    done.set()
    for thread in flushers:
        thread.join()
    mine.flush()
    assert stored(breakable) == [*range(1, 401)]


def test_what_waits_is_sent_with_pauses_for_the_lease(tmp_path: Path) -> None:
    """While a backlog is sent, the lease is renewed in time: nobody takes a living run."""
    store = Slow(tmp_path / "store")
    mine = records(store)
    for seq in range(1, 9):
        write(mine, seq)
        mine.keep()
    lease = Lease(store, RUN, 1.0)
    lease.acquire(0, take_over=False)
    heart = Heart(lease, mine, Document(store, f"{RUN}/status.json"), dict)
    with ThreadPoolExecutor(1) as pool:
        beating = pool.submit(heart.beat)
        other = Lease(DirectoryStore(tmp_path / "store"), RUN, 1.0)
        other.document.read()
        with pytest.raises(Held):
            elsewhere(other)
        assert not beating.done()
        beating.result()
    assert len(segments(store)) == 8


class Slow(DirectoryStore):
    """A directory that takes 0.4 s for a segment."""

    def put(self, key: str, data: Any) -> str:
        if "/events/" in key:
            time.sleep(0.4)
        return super().put(key, data)


def elsewhere(lease: Lease) -> None:
    """Acquire as a process of another machine would, which cannot know whether the holder lives."""
    lease.acquire(0, take_over=False)


def test_spools_of_two_servers_are_apart() -> None:
    """One bucket's name on two servers is two stores, whose events do not wait in one place."""
    urls = [f"http://127.0.0.1:{port}" for port in (1, 2)]
    found = set()
    for url in urls:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", url)
            found.add(spool_of(open_store("s3://bucket/prefix"), RUN))
    assert len(found) == 2


def test_only_earlier_events_are_swept(tmp_path: Path) -> None:
    """A process that finds no head removes what earlier epochs left, not what a later one keeps."""
    store = DirectoryStore(tmp_path / "store")
    for epoch in (1, 2, 3):
        kept = records(store, epoch)
        write(kept, 1)
        kept.keep()
    assert _settle_events(store, RUN, None, 2, []) == 0
    left = sorted(path.name[:6] for path in spool_of(store, RUN).glob("*.jsonl"))
    assert left == ["000002", "000003"]
