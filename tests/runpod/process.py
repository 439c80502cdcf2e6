"""The processes of simulated pods: how one is started, how all are found, how none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

ROOT = Path(__file__).parents[2]
"""Said here, as the guard of each simulator imports nothing that takes a second to begin."""
SECONDS = 600.0
"""Longest that a killed process may take to be gone."""


class Process(Protocol):
    """PID 1 of a container."""

    @property
    def pid(self) -> int:
        """Its process id on this machine."""

    def poll(self) -> int | None:
        """Its exit code, minus the signal that ended it, or None while it lives."""

    def signal(self, number: int) -> None:
        """Send it a signal, if it still lives."""


class PodFolder(NamedTuple):
    """Where a boot's process lives."""

    disk: Path
    """The container disk: empty at every boot."""
    out: Path
    err: Path
    """Files that take its output; who starts a process creates them."""


Start = Callable[[PodFolder, dict[str, str]], Process]
"""Starts PID 1 of a container with a whole environment."""


class Local:
    """A command on the container disk, its output in the boot's files."""

    def __init__(self, command: list[str], folder: PodFolder, environment: dict[str, str]) -> None:
        with folder.out.open("wb") as out, folder.err.open("wb") as err:
            self._process = subprocess.Popen(
                command,
                cwd=folder.disk,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,  # Ctrl-C at the tests is not meant for it
            )
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)


def supervisor(folder: PodFolder, environment: dict[str, str]) -> Process:
    """What the image's CMD says."""
    return Local([sys.executable, "-m", "job.supervise"], folder, environment)


def children(pid: int) -> set[int]:
    """Child processes of a process that have not ended."""
    found = set[int]()
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found.update(map(int, tasks.read_text().split()))
    return {child for child in found if _lives(child)}


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def of_pods(prefix: str) -> list[int]:
    """Processes of the pods whose id begins so, orphans too: by the environment they inherit."""
    mark = f"\0RUNPOD_POD_ID={prefix}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended in the meantime, or not ours
            if mark in b"\0" + (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def kill_all(prefix: str) -> None:
    """Kill the processes of the pods whose id begins so, until there is none.

    Two looks must agree: between fork and exec a process shows no environment for a moment.
    """
    assert prefix
    deadline, quiet = time.monotonic() + SECONDS, 0
    while quiet < 2:
        pids = of_pods(prefix)
        quiet = 0 if pids else quiet + 1
        assert time.monotonic() < deadline, f"{pids} cannot be killed"
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


@contextmanager
def guarded(prefix: str) -> Iterator[None]:
    """No such process outlives the block, not even where this process is killed within it."""
    guard = subprocess.Popen(
        [sys.executable, "-m", "tests.runpod.process", prefix],
        cwd=ROOT,
        stdin=subprocess.PIPE,  # ends with this process, however that ends
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.communicate()
        assert guard.returncode == 0


if __name__ == "__main__":
    sys.stdin.read()
    kill_all(sys.argv[1])
