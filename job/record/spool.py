"""The local folder where a run's events and state wait while its store is out of reach.

`<temporary folder>/evengrad-<user id>/<store>/<name>/<run id>`. Temporary folders are shared, so
nothing in there is trusted: every folder and file must belong to this user, and no symbolic link is
followed. A folder of another user cannot block this one, as each has a folder of its own.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from job.store import Store
from job.store.base import Bytes

PRIVATE = 0o700
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Spool:
    """One folder of files that belong to this user. Every method but `tidy` raises OSError."""

    def __init__(self, parts: Sequence[str]) -> None:
        self._parts = tuple(parts)
        """Names of the folders below the temporary folder, which is shared."""

    @classmethod
    def of(cls, store: Store, run: str) -> Spool:
        """The folder of a run in one store; a run of the same name in another store has another."""
        place = hashlib.sha256(store.place.encode()).hexdigest()[:8]
        return cls([f"evengrad-{os.geteuid()}", place, *run.split("/")])

    @property
    def path(self) -> Path:
        """Where it is, for messages."""
        return Path(_temporary_folder(), *self._parts)

    def __str__(self) -> str:
        return str(self.path)

    def inside(self, name: str) -> Spool:
        """A folder in this one."""
        return Spool([*self._parts, name])

    def names(self) -> list[str]:
        """What is in it, sorted; nothing if it is not there."""
        try:
            with self._opened() as folder:
                return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        with self._opened() as folder:
            file = os.open(name, READ_FILE, dir_fd=folder)
            with os.fdopen(file, "rb") as content:
                _check(file, self.path / name, stat.S_ISREG)
                return content.read()

    def write(self, name: str, data: Bytes) -> None:
        """Write a file, whole or not at all; it replaces one of that name."""
        partial = f".{name}.{secrets.token_hex(8)}.part"
        with self._opened(make=True) as folder:
            try:
                with os.fdopen(os.open(partial, NEW_FILE, 0o600, dir_fd=folder), "wb") as file:
                    file.write(data)
                os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(partial, dir_fd=folder)
                raise

    def remove(self, name: str) -> None:
        """Remove a file; it may be gone."""
        with suppress(FileNotFoundError), self._opened() as folder:
            os.unlink(name, dir_fd=folder)

    def set_aside(self, names: Sequence[str]) -> Path:
        """Move entries into a new folder beside this one, which nothing touches again."""
        *above, own = self._parts
        other = Spool(
            [*above, f"{own}.lost-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"]
        )
        with self._opened() as here, other._opened(make=True) as there:
            for name in names:
                os.rename(name, name, src_dir_fd=here, dst_dir_fd=there)
        return other.path

    def tidy(self) -> None:
        """Remove the folder and those above it that are empty, up to the user's."""
        for depth in range(len(self._parts), 1, -1):
            *above, name = self._parts[:depth]
            try:
                with Spool(above)._opened() as folder:
                    os.rmdir(name, dir_fd=folder)
            except OSError:
                return

    @contextmanager
    def _opened(self, make: bool = False) -> Iterator[int]:
        """A descriptor of the folder, every folder on the way to it checked."""
        shared = _temporary_folder()
        path, folder = shared, os.open(shared, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in self._parts:
                path = path / name
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(name, PRIVATE, dir_fd=folder)
                below = _open_folder(name, folder, path)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)


def _open_folder(name: str, above: int, path: Path) -> int:
    """A descriptor of a folder that only this user can write."""
    try:
        folder = os.open(name, FOLDER, dir_fd=above)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise NotADirectoryError(error.errno, "is not a folder; remove it", str(path)) from None
        raise
    try:
        if _check(folder, path, stat.S_ISDIR).st_mode & 0o077:
            os.fchmod(folder, PRIVATE)
    except BaseException:
        os.close(folder)
        raise
    return folder


def _check(descriptor: int, path: Path, is_kind: Callable[[int], bool]) -> os.stat_result:
    """Raises PermissionError unless it is of that kind, and this user's alone."""
    found = os.fstat(descriptor)
    if not is_kind(found.st_mode) or found.st_uid != os.geteuid():
        why = f"belongs to user {found.st_uid}, or is no plain file or folder; remove it"
        raise PermissionError(errno.EPERM, why, str(path))
    return found


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except OSError:  # none can be written now
        return Path(os.environ.get("TMPDIR", os.sep))
