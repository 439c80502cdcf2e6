"""What the tests of stores share: lists, contents, and processes that use a store."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import traceback

import pytest

from job.store import Store


def keys(store: Store, prefix: str = "") -> list[str]:
    """The keys under a prefix, as the store lists them."""
    return [entry.key for entry in store.list(prefix)]


def noise(size: int) -> bytes:
    """Bytes that look random, the same for the same size."""
    return random.Random(size).randbytes(size)


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process that runs `code`, with pipes to its input and output."""
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert process.stdout
    return process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process that is still running."""
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def whole_text(error: pytest.ExceptionInfo[BaseException]) -> str:
    """All that a user may come to read of an error, its causes included."""
    return "".join(traceback.format_exception(error.value))
