"""What only a store in a directory can do: locks, folders, files that others may not read."""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from job.store import Forbidden, Missing, Unavailable, open_store
from tests.support.stores import child, keys, kill, line

WRITE = """
    import itertools, sys
    from job.store import open_store
    store = open_store(sys.argv[1])
    for number in itertools.count():
        store.put("a/b", bytes([number % 256]) * 2_000_000)
        print(number, flush=True)
"""


def test_killed_writer_tears_nothing(tmp_path: Path) -> None:
    """While a process overwrites an object and is killed, 15 times at random moments, readers see
    whole objects alone; no lock stays, and what an interrupted write left is swept away."""
    store, moments = open_store(tmp_path), random.Random(5)

    def look() -> None:
        data = store.get("a/b").data
        assert data.count(data[:1]) == 2_000_000

    for _ in range(15):
        process = child(WRITE, str(tmp_path))
        assert line(process) == "0"
        moment = time.monotonic() + moments.uniform(0, 0.05)
        while time.monotonic() < moment:
            look()
        kill(process)
        look()
        assert keys(store) == ["a/b"]
        store.abort_uploads("a/")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "a", "b"]


def test_a_put_under_way_is_not_aborted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a run over aborts uploads; a document that another process writes is none."""
    sync, aborted = os.fsync, []

    def fsync(descriptor: int) -> None:
        aborted.append(open_store(tmp_path).abort_uploads())
        sync(descriptor)

    monkeypatch.setattr("job.store.directory.os.fsync", fsync)
    etag = open_store(tmp_path).put_if_absent("a/b", b"x")
    open_store(tmp_path).put_if_match("a/b", b"y", etag)
    assert open_store(tmp_path).get("a/b").data == b"y"
    assert len(aborted) > 2
    assert not any(aborted)


def test_frozen_holder_of_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that another process keeps makes a write Unavailable after a while; a read needs no
    lock."""
    monkeypatch.setattr("job.store.directory.LOCK_SECONDS", 0.2)
    store = open_store(tmp_path)
    store.put("a", b"x")
    with (tmp_path / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match=r"held \.lock"):
            store.put("a", b"y")
        assert store.get("a").data == b"x"
    store.put("a", b"y")


def test_forbidden_directory(tmp_path: Path) -> None:
    """A directory that may not be entered is Forbidden, not empty, for reading, listing and
    writing."""
    store = open_store(tmp_path / "store")
    store.put("a/b", b"x")
    with closed(tmp_path / "store"):
        for act in (
            lambda: store.get("a/b"),
            lambda: list(store.list("")),
            lambda: store.put("a/b", b"y"),
            lambda: store.delete("a/b"),
        ):
            with pytest.raises(Forbidden, match="Permission denied"):
                act()
    assert store.get("a/b").data == b"x"


@contextmanager
def closed(folder: Path) -> Iterator[None]:
    """Take our own rights to a folder away for a while; root becomes another user for that."""
    user, mode = os.geteuid(), folder.stat().st_mode
    folder.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(mode)


def test_folders_do_not_pile_up(tmp_path: Path) -> None:
    """Deleting the last object of a folder removes the folder, and those above up to the root."""
    store = open_store(tmp_path / "store")
    store.put("a/b/c/d", b"x")
    store.put("a/e", b"x")
    store.delete("a/b/c/d")
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [".lock", "a"]
    assert [path.name for path in (tmp_path / "store" / "a").iterdir()] == ["e"]
    store.delete("a/e")
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".lock"]


def test_reading_makes_no_directory(tmp_path: Path) -> None:
    """Reading from a directory that does not exist finds nothing and does not create it."""
    store = open_store(tmp_path / "store")
    assert keys(store) == []
    store.delete("a")
    assert store.abort_uploads() == 0
    with pytest.raises(Missing):
        store.get("a")
    assert not (tmp_path / "store").exists()
