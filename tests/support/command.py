"""`python -m job` as a user runs it: a process of its own, in a folder of its own; or `here`."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from job.cli.app import main
from tests.support.warm_process import Nursery

ROOT = Path(__file__).parents[2]
JOB = [sys.executable, "-m", "job"]


def environment(**more: str) -> dict[str, str]:
    """The test's environment on one thread, without what changes how a terminal is used."""
    settings = {"COLUMNS", "FORCE_COLOR", "NO_COLOR", "PYTHONIOENCODING", "TERM"}
    kept = {name: value for name, value in os.environ.items() if name not in settings}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


Ended = subprocess.CompletedProcess[str]


def job(folder: Path, *arguments: str, **settings: str) -> Ended:
    """Run a command to its end, its output in pipes."""
    return subprocess.run(
        [*JOB, *arguments],
        cwd=folder,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=600,
    )


def warm_job(nursery: Nursery, folder: Path, *arguments: str, **settings: str) -> Ended:
    """The same in a process that starts at once, its output in files."""
    process = nursery.start(*arguments, environment=environment(**settings), folder=folder)
    return Ended(arguments, process.wait(), process.out, process.err)


def here(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """A command within this process, for one that trains nothing: exit code, stdout, stderr."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    for number, handler in handlers.items():
        signal.signal(number, handler)  # `run` has its own until the process ends
    return (int(end.value.code or 0), *capsys.readouterr())


def start(folder: Path, *arguments: str, apart: bool = False) -> subprocess.Popen[str]:
    """Start a command, its output in pipes; use it as a context.

    apart: with a process group of its own, which a Ctrl-C goes to.
    """
    return subprocess.Popen(
        [*JOB, *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=apart,
    )


def die(*_: object) -> None:
    """End this process as the kernel does when memory runs out: without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


def on_terminal(folder: Path, *arguments: str, **settings: str) -> tuple[int, str]:
    """Run a command on a terminal of 100 columns; returns exit code and what appeared on it."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        [*JOB, *arguments],
        cwd=folder,
        env=environment(**settings),
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    seen = b""
    with process, open(ours, "rb", buffering=0) as terminal:
        try:
            while part := terminal.read(4096):
                seen += part
        except OSError:  # how Linux tells that the other end has gone
            pass
    return process.returncode, seen.decode()
