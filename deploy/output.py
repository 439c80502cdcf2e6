"""What commands write: progress on stderr, results on stdout, files whole or not at all."""

from __future__ import annotations

import json
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from job.show.printable import printable

Log = Callable[[str], None]
"""Takes one line of progress."""
ABANDONED_SECONDS = 3600.0
"""Age of a partial file that no process writes any more."""


def log_line(text: str) -> None:
    """Print one line of progress on stderr, without control characters."""
    with suppress(OSError):
        print(printable(text), file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """Print one JSON object on stdout; JSON escapes control characters."""
    print(json.dumps(value, default=str, allow_nan=False))


@contextmanager
def partial_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file beside `path`, to be renamed to it within the block; else it is removed.

    Its name is unique: two processes may write the same file. Partial files of `path` that killed
    processes left an hour ago or earlier are removed too.
    """
    _sweep(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        file = partial.open("xb")
    except OSError as error:  # about the file that the user knows
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with file:
            yield file
    finally:
        partial.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove partial files of `path` that no process writes any more."""
    name = re.compile(rf"\.{re.escape(path.name)}\.([0-9a-f]{{32}}\.)?part")
    with suppress(OSError):
        for left in filter(lambda other: name.fullmatch(other.name), path.parent.iterdir()):
            if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                left.unlink()
