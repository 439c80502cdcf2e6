"""The contract of a store, kept by the directory and by a real S3 server alike."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from job.store import Conflict, Missing, Store, StoreError, Unavailable, Unsupported
from job.store.base import Bytes
from job.store.directory import DirectoryStore
from tests.support.stores import child, keys, kill, line, noise

PART = 5 << 20  # the smallest that S3 allows


# --- reading what was written -----------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_round_trip(store: Store, size: int) -> None:
    """An object of any size comes back whole, with the etag that its write returned."""
    data = noise(size)
    etag = store.put("a/b", data)
    assert store.get("a/b") == (data, etag)
    assert b"".join(store.read("a/b", chunk=100_000)) == data
    assert [tuple(entry) for entry in store.list()] == [("a/b", size)]


def test_memoryview(store: Store) -> None:
    """A view of a larger buffer, of any element type, is written as its bytes."""
    view = memoryview(bytearray(range(64))).cast("i")[2:5]
    store.put("put", view)
    store.upload("upload", [view, view])
    assert store.get("put").data == bytes(range(8, 20))
    assert store.get("upload").data == bytes(range(8, 20)) * 2


def test_unicode_key(store: Store) -> None:
    """A key may hold blanks, signs that URLs escape, and letters of any script."""
    key = "läufe/日本 +%&?#=/ü.json"
    store.put(key, b"x")
    assert store.get(key).data == b"x"
    assert keys(store) == [key]
    store.delete(key)
    assert keys(store) == []


def test_overwrite(store: Store) -> None:
    """A second put replaces the object and changes its etag."""
    first, second = store.put("a", b"first"), store.put("a", b"2nd")
    assert first != second
    assert store.get("a") == (b"2nd", second)


def test_delete_is_idempotent(store: Store) -> None:
    """A deleted object is Missing; deleting it again, or a key that never existed, is no error."""
    store.put("a/b/c", b"x")
    for _ in range(2):
        store.delete("a/b/c")
        with pytest.raises(Missing, match="a/b/c"):
            store.get("a/b/c")
    store.delete("never")


def test_missing(store: Store) -> None:
    """Reading a key that does not exist is Missing, also if only a folder has the name."""
    store.put("a/b", b"x")
    for key in ("none", "a", "a/b/c", "none/none"):
        with pytest.raises(Missing):
            store.get(key)
        with pytest.raises(Missing):
            next(store.read(key))


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../up", "a/../../b", "a//b", "a/", ".lock"])
def test_keys_stay_inside(store: Store, key: str) -> None:
    """A key that could leave the root, or hide in it, is refused by every operation."""
    for act in (store.get, store.delete, lambda key: store.put(key, b"")):
        with pytest.raises(ValueError, match="is no key"):
            act(key)


# --- listing ----------------------------------------------------------------------------------


def test_list_is_sorted_and_complete(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """All keys of a prefix are listed in order, over more than one page, and no others."""
    monkeypatch.setattr("job.store.s3.PAGE", 7)
    numbers = [f"run/{number:03d}" for number in range(40)]
    wanted = [*numbers, "run/a/x", "run/a-b", "run/Z", "run/é"]
    for key in random.Random(0).sample([*wanted, "ru", "runs/1", "other/run/1"], len(wanted) + 3):
        store.put(key, b"x")
    assert keys(store, "run/") == sorted(wanted)
    assert keys(store, "run/00") == numbers[:10]
    assert keys(store, "run") == sorted([*wanted, "runs/1"])
    assert keys(store, "none/") == []


def test_list_after_a_key(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a folder only what comes after a key is listed, over more than one page."""
    monkeypatch.setattr("job.store.s3.PAGE", 7)
    numbers = [f"run/events/{number:03d}.x" for number in range(40)]
    for key in [*numbers, "run/report", "run/event"]:
        store.put(key, b"x")
    for after, left in ((numbers[0], 39), (numbers[20], 19), ("run/events/0201", 19)):
        listed = [entry.key for entry in store.list("run/events/", after)]
        assert listed == numbers[-left:]
    assert list(store.list("run/events/", numbers[-1])) == []
    assert len(list(store.list("run/events/", ""))) == 40


# --- conditions -------------------------------------------------------------------------------


def test_put_if_absent(store: Store) -> None:
    """A first write succeeds, a second is a Conflict and changes nothing, a deletion resets."""
    etag = store.put_if_absent("a", b"first")
    with pytest.raises(Conflict, match="/a: another writer was first"):
        store.put_if_absent("a", b"second")
    assert store.get("a") == (b"first", etag)
    store.delete("a")
    store.put_if_absent("a", b"third")


def test_put_if_match(store: Store) -> None:
    """Only the holder of the present etag may write, not of an older or a made-up one."""
    old = store.put("a", b"first")
    new = store.put_if_match("a", b"second", old)
    for etag in (old, '"00000000000000000000000000000000"'):
        with pytest.raises(Conflict):
            store.put_if_match("a", b"third", etag)
    assert store.get("a") == (b"second", new)
    store.delete("a")
    with pytest.raises(Conflict):
        store.put_if_match("a", b"third", new)
    assert keys(store) == []


def test_conditional(store: Store) -> None:
    """Conditional writes work on both kinds of store, and the probe leaves nothing behind."""
    assert store.conditional("run/")
    assert keys(store) == []


def test_one_winner_among_threads(store: Store) -> None:
    """Of three threads that write at once under one condition, exactly one wins, every time."""
    together = threading.Barrier(3)

    def wins(etag: str | None) -> bool:
        nonce = uuid.uuid4().bytes
        together.wait()
        try:
            if etag is None:
                store.put_if_absent("race", nonce)
            else:
                store.put_if_match("race", nonce, etag)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        for number in range(20):
            store.delete("race")
            etag = store.put("race", b"old") if number % 2 else None
            assert sum(pool.map(wins, [etag] * 3)) == 1


COUNT = """
    import json, sys, uuid
    from job.store import Conflict, open_store
    store, conflicts, done = open_store(sys.argv[1]), 0, 0
    while done < 40:
        was = store.get("count")
        if done + conflicts == 0:  # both have read the same version before either writes
            print("ready", flush=True)
            sys.stdin.readline()
        count = {"n": json.loads(was.data)["n"] + 1, "nonce": uuid.uuid4().hex}
        try:
            store.put_if_match("count", json.dumps(count).encode(), was.etag)
            done += 1
        except Conflict:
            conflicts += 1
    print(conflicts)
"""


def test_no_update_is_lost_between_processes(store: Store, store_url: str) -> None:
    """Two processes that each raise one number 40 times by put_if_match raise it by 80."""
    store.put("count", b'{"n": 0}')
    processes = [child(COUNT, store_url) for _ in range(2)]
    for process in processes:
        assert line(process) == "ready"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    conflicts = [int(process.communicate()[0]) for process in processes]
    assert json.loads(store.get("count").data)["n"] == 80
    assert sum(conflicts) > 0


# --- large objects ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1000, PART, 2 * PART + 1000])
def test_upload(store: Store, size: int) -> None:
    """Pieces of any size become one object, larger than a part or not."""
    data = noise(size)
    cuts = sorted(random.Random(1).choices(range(size + 1), k=9))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
    etag = store.upload("a/b", pieces, part=PART)
    assert hashlib.sha256(b"".join(store.read("a/b"))).digest() == hashlib.sha256(data).digest()
    assert store.get("a/b").etag == etag
    assert [tuple(entry) for entry in store.list()] == [("a/b", size)]
    assert store.abort_uploads() == 0


def test_failing_upload_leaves_nothing(store: Store) -> None:
    """An upload whose source fails raises that error and leaves no object and no piece of one."""

    def source() -> Iterator[bytes]:
        yield noise(PART)
        yield noise(PART)
        raise OSError("the source broke")

    with pytest.raises(OSError, match="the source broke"):
        store.upload("a/b", source(), part=PART)
    assert keys(store) == []
    assert store.abort_uploads() == 0


UPLOAD = """
    import sys
    from job.store import open_store
    def source():
        yield bytes(11 << 20)
        print("ready", flush=True)
        sys.stdin.readline()
    open_store(sys.argv[1]).upload("run/1/model", source(), part=5 << 20)
"""


def test_killed_upload_is_aborted(store: Store, store_url: str) -> None:
    """An upload of a killed process leaves no object; its run removes the pieces, others don't."""
    process = child(UPLOAD, store_url)
    assert line(process) == "ready"
    kill(process)
    assert keys(store) == []
    assert store.abort_uploads("run/2") == 0
    assert store.abort_uploads("run/1/") == 1
    assert store.abort_uploads() == 0


def test_aborted_upload_fails(store: Store) -> None:
    """An upload that another process aborts is Unavailable, and there is no object."""

    def source() -> Iterator[bytes]:
        yield noise(PART)
        yield noise(PART)
        assert store.abort_uploads("a/") == 1
        yield noise(PART)

    with pytest.raises(Unavailable):
        store.upload("a/b", source(), part=PART)
    assert keys(store) == []


# --- the probe for conditional writes ----------------------------------------------------------


class IgnoresAbsence(DirectoryStore):
    """Like a server that does not know If-None-Match."""

    def put_if_absent(self, key: str, data: Bytes) -> str:
        return self.put(key, data)


class IgnoresMatch(DirectoryStore):
    """Like a server that does not know If-Match."""

    def put_if_match(self, key: str, data: Bytes, etag: str) -> str:
        return self.put(key, data)


class RefusesConditions(DirectoryStore):
    """Like a server that answers 501 to If-None-Match."""

    def put_if_absent(self, key: str, data: Bytes) -> str:
        raise Unsupported(key)


@pytest.mark.parametrize("kind", [IgnoresAbsence, IgnoresMatch, RefusesConditions])
def test_probe_recognizes_ignored_conditions(tmp_path: Path, kind: type[DirectoryStore]) -> None:
    """A store that ignores either condition, or refuses them, is recognized, and left clean."""
    store = kind(tmp_path)
    assert not store.conditional("run/")
    assert keys(store) == []


class Alters(DirectoryStore):
    """Like a server that stores the frames of a chunked upload with its content."""

    def put_if_absent(self, key: str, data: Bytes) -> str:
        return super().put_if_absent(key, b"5;chunk-signature=0 " + bytes(data))

    def put_if_match(self, key: str, data: Bytes, etag: str) -> str:
        return super().put_if_match(key, b"5;chunk-signature=0 " + bytes(data), etag)


def test_probe_recognizes_altered_bytes(tmp_path: Path) -> None:
    """A store that gives back other bytes than were written is not said to ignore conditions."""
    store = Alters(tmp_path)
    with pytest.raises(StoreError, match=r"other bytes than were written.*CHECKSUM_CALCULATION"):
        store.conditional("run/")
    assert keys(store) == []
