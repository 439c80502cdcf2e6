"""The store in a local directory: one file per object.

A write goes to a temporary file in the same folder, which then replaces the object's file.
Conditions are checked and the file is replaced under one lock of the whole directory; it works
between processes, and the kernel releases it when its holder dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from job.store.base import (
    CHUNK,
    PART,
    Bytes,
    Conflict,
    Entry,
    Forbidden,
    Missing,
    Store,
    Stored,
    StoreError,
    Unavailable,
    checked,
)

LOCK_SECONDS = 20.0
"""Longest wait for another process that holds the lock; each holds it for milliseconds."""


class DirectoryStore(Store):
    """Objects as files under `root`; an etag is the SHA-256 of the content."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.url = self.place = str(self.root)

    def get(self, key: str) -> Stored:
        """The whole object; raises Missing."""
        data = b"".join(self.read(key))
        return Stored(data, hashlib.sha256(data).hexdigest())

    def read(self, key: str, chunk: int = CHUNK) -> Iterator[bytes]:
        """The object in pieces; a file that is replaced meanwhile is read as it was."""
        path = self._path(key)
        with _translating(path, absent=Missing), path.open("rb") as file:
            while data := file.read(chunk):
                yield data

    def put(self, key: str, data: Bytes) -> str:
        """Write unconditionally; returns the etag."""
        return self._write(key, [data])

    def put_if_absent(self, key: str, data: Bytes) -> str:
        """Write unless the key exists; returns the etag, raises Conflict."""
        return self._write(key, [data], lambda now: now is None)

    def put_if_match(self, key: str, data: Bytes, etag: str) -> str:
        """Replace the object that has this etag; returns the new one, raises Conflict."""
        return self._write(key, [data], lambda now: now == etag)

    def upload(self, key: str, parts: Iterable[Bytes], part: int = PART) -> str:
        """Write what `parts` yields, as it comes; returns the etag."""
        return self._write(key, parts, abortable=True)

    def list(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        """All objects whose key begins with `prefix` and comes after `after`, sorted by key."""
        yield from sorted(self._entries(prefix, after))

    def delete(self, key: str) -> None:
        """Remove the object, if it exists, and the folders that are then empty."""
        path = self._path(key)
        with _translating(path):
            if path.is_file():
                with self._lock():
                    self._remove(path)

    def abort_uploads(self, prefix: str = "") -> int:
        """Remove the temporary files of interrupted writes under `prefix`; returns how many.

        Those of an upload under way too, but not of a put, which no other process can abort.
        """
        cut, removed = [key for key in self._files(prefix) if _is_part_of(key, prefix)], 0
        for path in (self.root / key for key in cut):
            with _translating(path), self._lock():
                if not _is_held(path):
                    self._remove(path)
                    removed += 1
        return removed

    def _path(self, key: str) -> Path:
        return self.root / checked(key)

    def _write(
        self,
        key: str,
        parts: Iterable[Bytes],
        allowed: Callable[[str | None], bool] | None = None,
        abortable: bool = False,
    ) -> str:
        """Write and publish, if `allowed` of the present etag (None: absent); returns the etag.

        abortable: whether `abort_uploads` of another process may end it, as in S3 an upload alone.
        """
        path, digest = self._path(key), hashlib.sha256()
        with self._temporary(path, abortable) as (temporary, file):
            for piece in parts:
                digest.update(piece)
                with _translating(path):
                    file.write(piece)
            with _translating(path):
                file.flush()
                os.fsync(file.fileno())
                with self._lock():
                    if allowed and not allowed(self._etag(key)):
                        raise Conflict(f"{path}: another writer was first")
                    temporary.replace(path)
                    _sync(path.parent)
        return digest.hexdigest()

    @contextmanager
    def _temporary(self, path: Path, abortable: bool) -> Iterator[tuple[Path, BinaryIO]]:
        """A new hidden file beside `path`, removed at the end unless it was renamed."""
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        with _translating(path), self._lock():  # no deletion may take the folder away in between
            _make_folders(path.parent)
            file = temporary.open("xb")
            if not abortable:  # held until it is closed, or its process is dead
                fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield temporary, file
        finally:
            with suppress(OSError):  # the write has reported it
                file.close()
            if temporary.exists():
                with _translating(path), self._lock():
                    self._remove(temporary)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the lock of the directory; raises Unavailable if another process keeps it."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
            raise Unavailable(
                f"{self.url} is no directory that can be written: {error.strerror}; name another "
                "store, or create it"
            ) from error
        deadline = time.monotonic() + LOCK_SECONDS
        with (self.root / ".lock").open("ab") as file:
            while True:
                with suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"{self.url}: another process has held .lock for {LOCK_SECONDS:.0f} s; "
                        "is one of this run frozen?"
                    )
                time.sleep(0.002)
            try:
                yield
            finally:  # by name: a forked child may hold the file open after we close it
                fcntl.flock(file, fcntl.LOCK_UN)

    def _etag(self, key: str) -> str | None:
        try:
            return self.get(key).etag
        except Missing:
            return None

    def _remove(self, path: Path) -> None:
        """Unlink, then remove the folders that are empty; call under the lock."""
        path.unlink(missing_ok=True)
        with suppress(OSError):  # the first folder that is not empty ends the loop
            for folder in path.relative_to(self.root).parents[:-1]:
                (self.root / folder).rmdir()

    def _files(self, prefix: str) -> Iterator[str]:
        """All files in the folder of `prefix` and below, hidden ones too, as keys.

        They are texts: a long run has many files, and a Path costs more than the system's call.
        """
        folder = prefix.rpartition("/")[0]
        base = self._path(folder) if folder else self.root
        with _translating(base):
            for here, folders, names in os.walk(base, onerror=_raise_unless_absent):
                folders[:] = [name for name in folders if not name.startswith(".")]
                place = Path(here).relative_to(self.root).as_posix()
                above = "" if place == "." else f"{place}/"
                yield from (above + name for name in names)

    def _entries(self, prefix: str, after: str) -> Iterator[Entry]:
        for key in self._files(prefix):
            hidden = key[key.rfind("/") + 1] == "."
            if key.startswith(prefix) and key > after and not hidden:
                with suppress(FileNotFoundError):  # deleted meanwhile
                    yield Entry(key, os.stat(f"{self.root}/{key}").st_size)


def _is_part_of(file: str, prefix: str) -> bool:
    """True for the temporary file of a key that begins with `prefix`; file: as a key."""
    folder, slash, name = file.rpartition("/")
    if not name.startswith(".") or not name.endswith(".part"):
        return False
    return f"{folder}{slash}{name[1:].rsplit('.', 2)[0]}".startswith(prefix)


def _is_held(temporary: Path) -> bool:
    """True if a process that lives writes the file by a put."""
    with suppress(FileNotFoundError), temporary.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def _translating(path: Path, absent: type[StoreError] = Unavailable) -> Iterator[None]:
    """Raise an error of the operating system as a StoreError."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise absent(f"{path}: {error.strerror}") from error
    except PermissionError as error:
        raise Forbidden(f"{path}: {error.strerror}; check its owner and mode") from error
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror or error}") from error


def _raise_unless_absent(error: OSError) -> None:
    """Raise what `os.walk` would ignore, except that a folder does not exist."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _make_folders(folder: Path) -> None:
    """Make a folder and those above it, each durable in the one above."""
    if not folder.is_dir():
        _make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
