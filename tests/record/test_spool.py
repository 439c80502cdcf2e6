"""The spool lies in a shared folder: it is one user's alone, and trusts nothing that it finds."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from job.record.spool import Spool
from job.store.directory import DirectoryStore

RUN = "name/run"
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
NOBODY = 65534


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder that every user may write, as /tmp is."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def spool(shared: Path, tmp_path: Path) -> Spool:
    return Spool.of(DirectoryStore(tmp_path / "store"), RUN)


def test_a_file_comes_back(spool: Spool, shared: Path) -> None:
    """Written whole, replaced, listed, removed; nothing is left of the folders."""
    assert spool.names() == []
    spool.write("b", b"old")
    spool.write("b", b"new")
    spool.write("a", memoryview(b"1"))
    assert spool.names() == ["a", "b"]
    assert spool.read("b") == b"new"
    spool.inside("checkpoint").write("c", b"2")
    assert (spool.path / "checkpoint" / "c").read_bytes() == b"2"
    for name in ("a", "b", "a"):
        spool.remove(name)
    spool.inside("checkpoint").remove("c")
    spool.inside("checkpoint").tidy()
    spool.tidy()
    assert [path.name for path in shared.iterdir()] == [f"evengrad-{os.geteuid()}"]


def test_it_is_private(spool: Spool, shared: Path) -> None:
    """Every folder is 0700, whatever the umask and whatever it was; every file 0600."""
    top = shared / f"evengrad-{os.geteuid()}"
    top.mkdir(mode=0o755)
    before = os.umask(0)
    try:
        spool.write("a", b"")
    finally:
        os.umask(before)
    folders = [top, *(path for path in top.rglob("*") if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    assert stat.S_IMODE((spool.path / "a").stat().st_mode) == 0o600


def test_a_failed_write_leaves_nothing(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the file nor a part of it, and the old one stays."""
    spool.write("a", b"old")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("job.record.spool.os.rename", refuse)
    with pytest.raises(OSError, match="No space"):
        spool.write("a", b"new")
    assert spool.names() == ["a"]
    assert spool.read("a") == b"old"


@pytest.mark.parametrize("depth", range(5))
def test_no_link_is_followed(spool: Spool, shared: Path, tmp_path: Path, depth: int) -> None:
    """A symbolic link in place of any folder, or of a file, is refused: nothing is read or written
    where it leads."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "a").write_bytes(b"secret")
    places = [*[spool.path, *spool.path.parents][:4][::-1], spool.path / "a"]
    place = places[depth]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(victim / "a" if depth == 4 else victim)
    with pytest.raises(OSError, match=r"not a folder|symbolic|symlink"):
        spool.read("a")
    if depth < 4:
        with pytest.raises(OSError, match="not a folder"):
            spool.write("a", b"new")
        with pytest.raises(OSError, match="not a folder"):
            spool.names()
    else:
        spool.write("a", b"new")  # replaces the link itself
    assert (victim / "a").read_bytes() == b"secret"
    assert [path.name for path in victim.iterdir()] == ["a"]


@ROOT
def test_another_users_folder_and_file_are_refused(spool: Spool, shared: Path) -> None:
    """Planted in our place, neither is used; the message says whose it is and what to do."""
    spool.write("a", b"1")
    os.chown(spool.path / "a", NOBODY, NOBODY)
    with pytest.raises(PermissionError, match=f"belongs to user {NOBODY}.*remove it"):
        spool.read("a")
    os.chown(shared / f"evengrad-{os.geteuid()}", NOBODY, NOBODY)
    with pytest.raises(PermissionError, match=f"belongs to user {NOBODY}"):
        spool.names()


def test_a_pipe_is_not_waited_for(spool: Spool) -> None:
    """A planted FIFO does not hang a process."""
    spool.write("a", b"1")
    os.mkfifo(spool.path / "pipe")
    with pytest.raises(PermissionError, match="no plain file"):
        spool.read("pipe")


@ROOT
def test_two_users_do_not_meet(spool: Spool, shared: Path, tmp_path: Path) -> None:
    """Two users of one store on one machine each have a spool, at the same time."""
    spool.write("a", b"root's")
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(0o755)
    os.seteuid(NOBODY)
    try:
        other = Spool.of(DirectoryStore(tmp_path / "store"), RUN)
        assert other.path != spool.path
        assert other.names() == []
        other.write("a", b"theirs")
        assert other.read("a") == b"theirs"
    finally:
        os.seteuid(0)
    assert spool.read("a") == b"root's"


def test_set_aside(spool: Spool) -> None:
    """Entries move beside the folder, to a place of their own each time."""
    for data in (b"1", b"2"):
        spool.write("a", data)
        place = spool.set_aside(["a"])
        assert place.parent == spool.path.parent
        assert (place / "a").read_bytes() == data
    assert spool.names() == []
