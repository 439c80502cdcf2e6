"""A folder that is there once it is whole, whatever ends the process that writes it.

As of a new file (job.export.new_file), but the lock is on the hidden folder itself.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from job.errors import Fault, InputError

PARTIAL = re.compile(r"\.evengrad-folder\.[0-9a-f]{32}")
"""Names of hidden folders."""


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that gets its name at the end of the block, if that raises nothing.

    Raises InputError if there is something of that name.
    """
    check_no_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    folder, lock = _create(path.parent)
    try:
        yield folder
        check_no_folder(path)
        try:
            folder.rename(path)
        except OSError:  # another process came first
            check_no_folder(path)
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def check_no_folder(path: Path) -> None:
    """Raise InputError if there is something of that name."""
    if os.path.lexists(path):
        rule, remedy = "nothing is overwritten", "name another folder"
        raise InputError([Fault(f"-o {path}", "something of that name", rule, remedy)])


def _create(parent: Path) -> tuple[Path, int]:
    """A new hidden folder, locked, and what holds the lock."""
    while True:
        path = parent / f".evengrad-folder.{uuid.uuid4().hex}"
        path.mkdir()
        with suppress(FileNotFoundError):  # it was removed before it was locked
            lock = os.open(path, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if path.is_dir():
                return path, lock
            os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    """Remove the hidden folders of processes that were killed."""
    for path in parent.iterdir():
        if PARTIAL.fullmatch(path.name):
            with suppress(OSError):  # locked, or gone
                lock = os.open(path, os.O_RDONLY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(lock)
