"""Files that are there once they are whole, whatever ends the process that writes them.

A file is written under a hidden name of its own and then gets its real one. A writer locks its
hidden file, and the kernel releases the lock with the process: what is not locked is left by a
killed process, and removed.
"""

from __future__ import annotations

import fcntl
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from job.errors import Fault, InputError

PARTIAL = re.compile(r"\.evengrad-export\.[0-9a-f]{32}\.part")
"""Names of hidden files. The final name is no part of it: TensorBoard would read such a file."""


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name at the end of the block, if that raises nothing.

    Raises InputError if there is a file of that name.
    """
    check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    partial, file = _create(path.parent)
    try:
        with file:
            yield file
            file.flush()
            _publish(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _publish(partial: Path, path: Path) -> None:
    """Give a file its real name; raises InputError if there is a file of that name."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise _taken(path) from None
    except OSError:  # a file system without links; another one could come between look and rename
        check_free(path)
        partial.rename(path)


def check_free(path: Path) -> None:
    """Raises InputError if there is a file of that name."""
    if os.path.lexists(path):
        raise _taken(path)


def _taken(path: Path) -> InputError:
    remedy = "name another place, or move the file away"
    return InputError([Fault(str(path), "a file", "nothing is overwritten", remedy)])


def _create(folder: Path) -> tuple[Path, IO[bytes]]:
    """A new hidden file, locked."""
    while True:
        path = folder / f".evengrad-export.{uuid.uuid4().hex}.part"
        try:
            file = path.open("xb")
        except OSError as error:  # the user knows the folder, not this file
            raise OSError(error.errno, error.strerror, str(folder)) from None
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:  # else it was removed before it was locked
            return path, file
        file.close()


def _remove_abandoned(folder: Path) -> None:
    """Remove the hidden files of processes that were killed."""
    for path in folder.iterdir():
        if PARTIAL.fullmatch(path.name):
            with suppress(OSError), path.open("rb") as file:  # locked, gone, or not ours
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
