"""Events reach the store whole and in order, by way of a local folder if it is down."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from job.events.log import EventLog
from job.record.claim import _settle_events
from job.record.document import Document
from job.record.lease import Lease
from job.record.run_index import RunIndex
from job.record.segments import EventUploader, Segment, UploadFailed, digest_of
from job.record.spool import Spool
from job.record.status import Status
from job.run.keepalive import KeepAlive
from job.store import Forbidden, Store, StoreError, Unavailable, open_store
from job.store.directory import DirectoryStore

RUN = "name/run"


@pytest.fixture(autouse=True)
def spools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spools go where the test's files are."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


class Clock:
    """Time that the test moves, in place of the module `time`."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of outages and of the keep-alive."""
    made = Clock()
    for module in ("job.record.segments", "job.run.keepalive"):
        monkeypatch.setattr(f"{module}.time", made)
    return made


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


def records(store: Store, epoch: int = 1, offline: float = 60) -> EventUploader:
    return EventUploader(store, RUN, epoch, offline)


def write(to: EventUploader, *seqs: int) -> None:
    for seq in seqs:
        event = {"seq": seq, "event": "step"}
        to(event, json.dumps(event))


def spooled(uploader: EventUploader) -> list[dict[str, Any]]:
    """The events that wait in the spool, as its names sort."""
    data = b"".join(uploader.spool.read(name) for name in uploader.spool.names())
    return [json.loads(line) for line in data.splitlines()]


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
    assert not mine.spool.names()


@pytest.mark.parametrize(
    "key",
    [
        "events/x", "events/1-2-3.jsonl", "events/a-1-2-d.jsonl", "",
        "events/000001-000000000001-000000000002-0123456789abcdef.jsonl.bak",
        "events/000001-000000000001-000000000002-0123456789abcdef (1).jsonl",
        "events/+00001-000000000001-000000000002-0123456789abcdef.jsonl",
    ],
)  # fmt: skip
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
    assert len(mine.spool.names()) == 6
    breakable.left = 2  # back for a moment
    mine.flush()
    assert stored(breakable) == [1, 2, 3, 4]
    breakable.broken = None
    mine.flush()
    assert stored(breakable) == [*range(1, 9)]
    assert mine.down_since is None
    assert not mine.spool.names()


def settle(store: Store, epoch: int, index: RunIndex | None) -> tuple[int, dict[str, str]]:
    """Settle the events for a process of that epoch; the last one that counts, and alarms."""
    settled = _settle_events(store, RUN, index, epoch)
    return settled.last, dict(settled.alarms)


def test_the_spool_outlives_its_process(breakable: Breakable) -> None:
    """What a process could not send is sent, unchanged, by one that starts here after it."""
    mine = records(breakable)
    breakable.broken = Unavailable("down")
    for seqs in ((1, 2), (3,), (4, 5, 6)):
        write(mine, *seqs)
        mine.flush()
    del mine
    breakable.broken = None
    assert settle(breakable, 2, RunIndex(epoch=1, spec_hash="")) == (6, {})
    assert stored(breakable) == [1, 2, 3, 4, 5, 6]
    assert [(s.first, s.last) for s in segments(breakable)] == [(1, 2), (3, 3), (4, 6)]
    assert not Spool.of(breakable, RUN).names()


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
    assert [name[:6] for name in first.spool.names()] == ["000001"]


def test_runs_of_one_name_in_two_stores_do_not_meet(tmp_path: Path) -> None:
    """The spool belongs to a run in one store."""
    one, two = (DirectoryStore(tmp_path / name) for name in "ab")
    assert Spool.of(one, RUN).path != Spool.of(two, RUN).path
    assert Spool.of(one, RUN).path != Spool.of(one, "name/other").path


def test_too_long_out_of_reach(breakable: Breakable, clock: Clock) -> None:
    """Past the spec's bound UploadFailed names the place of the events and the reason."""
    mine = records(breakable, offline=0.2)
    breakable.broken = Unavailable("no route to the store")
    write(mine, 1)
    mine.flush()
    clock.now += 0.3
    write(mine, 2)
    with pytest.raises(UploadFailed, match=rf"events wait in {mine.spool}.*no route"):
        mine.flush()
    assert [event["seq"] for event in spooled(mine)] == [1, 2]


def test_being_back_resets_the_clock(breakable: Breakable, clock: Clock) -> None:
    """Two short outages are not one long one."""
    mine = records(breakable, offline=0.5)
    for seq in range(1, 4):
        breakable.broken = Unavailable("down")
        write(mine, seq)
        mine.flush()
        clock.now += 0.3
        breakable.broken = None
        mine.flush()
    assert stored(breakable) == [1, 2, 3]


def test_too_much_waits(breakable: Breakable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full spool ends the run; nothing in it is dropped."""
    monkeypatch.setattr("job.record.segments.WAITING_BYTES", 200)
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
    assert [event["seq"] for event in spooled(mine)] == [*range(1, seq + 1)]
    assert 200 < sum(len(mine.spool.read(name)) for name in mine.spool.names()) < 300


def test_wrong_credentials_are_not_waited_for(breakable: Breakable) -> None:
    """Forbidden is raised at once; the events stay in the spool."""
    mine = records(breakable)
    breakable.broken = Forbidden("403")
    write(mine, 1)
    with pytest.raises(Forbidden):
        mine.flush()
    assert len(mine.spool.names()) == 1


class Emitted(BaseModel):
    """An event for tests."""

    event: str = "step"
    by: int


def test_many_threads(breakable: Breakable) -> None:
    """Events of four threads, flushed by two, over outages: every number once, in order."""
    mine = records(breakable)
    journal = EventLog("run", [mine])
    done = threading.Event()

    def emit(by: int) -> None:
        for _ in range(100):
            journal.emit(Emitted(by=by))

    def flush() -> None:
        while not done.is_set():
            mine.flush()

    writers = [threading.Thread(target=emit, args=(k,)) for k in range(4)]
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


class Slow(DirectoryStore):
    """A directory that takes 0.4 s for a segment, and notes when a lease is written."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        super().__init__(folder)
        self.clock = clock
        self.renewed: list[float] = []

    def put(self, key: str, data: Any) -> str:
        self.clock.now += 0.4 if "/events/" in key else 0.0
        return super().put(key, data)

    def put_if_match(self, key: str, data: Any, etag: str) -> str:
        if key.endswith("/lease.json"):
            self.renewed.append(self.clock.now)
        return super().put_if_match(key, data, etag)


def test_what_waits_is_sent_with_pauses_for_the_lease(tmp_path: Path, clock: Clock) -> None:
    """While a backlog is sent, which takes longer than the lease is granted, it is renewed in time:
    no watcher sees it unchanged for as long as it is granted."""
    store = Slow(tmp_path / "store", clock)
    mine = records(store)
    for seq in range(1, 9):
        write(mine, seq)
        mine.keep()
    lease = Lease(store, RUN, 1.0)
    lease.acquire(0, take_over=False)
    status = Document(store, Status.key(RUN))
    begun = clock.now
    KeepAlive(lease, mine, status, lambda: Status(phase="training")).renew()
    assert len(segments(store)) == 8
    assert clock.now - begun > 3 * lease.seconds
    moments = [begun, *store.renewed, clock.now]
    assert max(late - soon for soon, late in pairwise(moments)) < lease.seconds


def test_spools_of_two_servers_are_apart() -> None:
    """One bucket's name on two servers is two stores, whose events do not wait in one place."""
    urls = [f"http://127.0.0.1:{port}" for port in (1, 2)]
    found = set()
    for url in urls:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", url)
            found.add(Spool.of(open_store("s3://bucket/prefix"), RUN).path)
    assert len(found) == 2


def test_only_earlier_events_are_swept(tmp_path: Path) -> None:
    """A process that finds no index sets aside, in a folder that its alarm names, what earlier
    epochs left, and leaves alone what a later one keeps."""
    store = DirectoryStore(tmp_path / "store")
    for epoch in (1, 2, 3):
        kept = records(store, epoch)
        write(kept, 1)
        kept.keep()
    last, alarms = settle(store, 2, None)
    assert last == 0
    assert [name[:6] for name in Spool.of(store, RUN).names()] == ["000002", "000003"]
    folder = Path(alarms["events_set_aside"].rpartition(" ")[2])
    assert [path.name[:6] for path in folder.iterdir()] == ["000001"]


def test_what_does_not_go_on_is_set_aside(breakable: Breakable) -> None:
    """Spooled events of an epoch that is over, or that do not follow the stored ones, are not sent:
    they are of another life of the run, or count no more. Nothing is deleted."""
    breakable.broken = Unavailable("down")
    for epoch, seq in ((1, 7), (2, 3), (2, 9)):
        uploader = records(breakable, epoch)
        write(uploader, seq)
        uploader.flush()
    breakable.broken = None
    stored_before = records(breakable, 2)
    write(stored_before, 1, 2)
    stored_before.flush()
    last, alarms = settle(breakable, 3, RunIndex(epoch=2, spec_hash="", fences={1: 0}))
    assert last == 3
    assert stored(breakable) == [1, 2, 3]
    folder = Path(alarms["events_set_aside"].rpartition(" ")[2])
    assert sorted(path.name[:19] for path in folder.iterdir()) == [
        "000001-000000000007", "000002-000000000009"
    ]  # fmt: skip
    assert not Spool.of(breakable, RUN).names()


class TestUnwritableSpool:
    """The folder for waiting events cannot be written: full, or in another user's way."""

    @pytest.fixture
    def blocked(self, breakable: Breakable) -> Breakable:
        """A store whose spool cannot be made, as a file is in its place."""
        Path(tempfile.gettempdir(), f"evengrad-{os.geteuid()}").write_text("")
        return breakable

    def test_with_the_store_it_is_not_missed(self, blocked: Breakable) -> None:
        """Events go from memory to a store that answers; there is no alarm."""
        alarms: list[str] = []
        mine = EventUploader(blocked, RUN, 1, 60, lambda kind, _: alarms.append(kind))
        for seq in range(1, 5):
            write(mine, seq)
            mine.flush()
        assert stored(blocked) == [1, 2, 3, 4]
        assert alarms == []

    def test_without_the_store_memory_keeps_events(self, blocked: Breakable) -> None:
        """One alarm an outage says so; when the store is back all events arrive, in order."""
        alarms: list[tuple[str, str]] = []
        mine = EventUploader(blocked, RUN, 1, 60, lambda *alarm: alarms.append(alarm))
        for outage in range(2):
            blocked.broken = Unavailable("down")
            for seq in range(1, 4):
                write(mine, 3 * outage + seq)
                mine.flush()
            assert mine.down_since is not None
            blocked.broken = None
            mine.flush()
            assert mine.down_since is None
        assert stored(blocked) == [*range(1, 7)]
        assert [kind for kind, _ in alarms] == ["spool_unwritable"] * 2
        assert f"{mine.spool} cannot be written" in alarms[0][1]
        assert "set TMPDIR" in alarms[0][1]

    def test_it_is_an_outage_with_the_specs_bound(self, blocked: Breakable) -> None:
        """Past it the run ends as in any outage, and the message says where the events are."""
        mine = records(blocked, offline=0.0)
        blocked.broken = Unavailable("no route")
        write(mine, 1)
        mine.down_since = time.monotonic() - 1
        with pytest.raises(UploadFailed, match=r"events wait in memory: .*cannot be written"):
            mine.flush()

    def test_memory_is_bounded(self, blocked: Breakable, monkeypatch: pytest.MonkeyPatch) -> None:
        """Too much in memory ends the run, as too much in the spool does."""
        monkeypatch.setattr("job.record.segments.WAITING_BYTES", 200)
        mine = records(blocked)
        blocked.broken = Unavailable("down")
        write(mine, *range(1, 100))
        with pytest.raises(UploadFailed, match="MB of events wait in memory"):
            mine.flush()

    def test_room_again(self, blocked: Breakable) -> None:
        """What memory kept goes to the spool as soon as that can be written."""
        mine = records(blocked)
        blocked.broken = Unavailable("down")
        write(mine, 1)
        mine.flush()
        Path(tempfile.gettempdir(), f"evengrad-{os.geteuid()}").unlink()
        write(mine, 2)
        mine.flush()
        assert [event["seq"] for event in spooled(mine)] == [1, 2]
        assert mine.spool_fault is None
