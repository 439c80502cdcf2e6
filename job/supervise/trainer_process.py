"""The trainer as a child process: started, signalled, reaped, and watched for progress."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from job.background import GaveUp, wait_seconds
from job.env import LIVENESS_FILE
from job.exit_codes import DEVICE_FAILED
from job.run import liveness
from job.run.exit_relay import code_file, read_code
from job.run.liveness import Liveness
from job.supervise.launch import MARK, TORCHRUN

STEPPING = ("starting", "training")
"""Phases in which steps are to come."""
STUCK = 30.0
"""Seconds that a killed trainer has to be gone; after that the end goes on without it."""
TAIL = 3
"""Lines of the trainer's stderr that are kept as the reason for its end."""
WRITE_SECONDS = 1.0
"""Timeout of one write to the log."""


def write_log(descriptor: int, text: str) -> None:
    """Write without waiting for long: a log that nobody reads must not keep a pod alive."""
    data = text.encode("utf-8", "replace")
    with suppress(OSError, GaveUp):
        wait_seconds(lambda: os.write(descriptor, data), WRITE_SECONDS)


class Progress:
    """A trainer's progress, from its liveness file; clock: in seconds."""

    def __init__(self, liveness_file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.liveness_file, self.clock = liveness_file, clock
        self._liveness: Liveness | None = None
        self._progressed = self._lived = clock()
        self._written: float | None = None

    def look(self) -> None:
        """Read the file, and note when it was last written and when its content changed."""
        written = liveness.last_written(self.liveness_file)
        if written != self._written:
            self._written, self._lived = written, self.clock()
        current = liveness.read(self.liveness_file)
        if current is not None and current != self._liveness:
            self._liveness, self._progressed = current, self.clock()

    @property
    def seconds_without(self) -> float:
        """Seconds since a step or an evaluated batch; if none is to come, since it was alive."""
        since = self._progressed if self.phase in STEPPING else self._lived
        return self.clock() - since

    @property
    def has_stepped(self) -> bool:
        """True once it has finished a step, or when no step is to come."""
        stepped = self._liveness is not None and self._liveness.step > 0
        return self.phase not in STEPPING or stepped

    @property
    def phase(self) -> str:
        """Its phase, as it last wrote it."""
        return self._liveness.phase if self._liveness is not None else "starting"


class TrainerProcess:
    """A trainer in a session of its own, so that a terminal's Ctrl-C reaches it only once."""

    def __init__(
        self,
        command: list[str],
        liveness_file: Path,
        environment: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        liveness_file.unlink(missing_ok=True)
        code_file(liveness_file).unlink(missing_ok=True)
        self.liveness_file, self.progress = liveness_file, Progress(liveness_file, clock)
        self.is_torchrun = command[1:3] == TORCHRUN
        self.tail: deque[str] = deque(maxlen=TAIL)
        """Its last lines on stderr."""
        self.code: int | None = None
        """Exit code, negative for a signal; None while it runs."""
        self._kill_at = math.inf
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**environment, LIVENESS_FILE: str(liveness_file)},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()

    def _pass_on(self) -> None:
        """Copy its stderr to the container's log."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if not self.is_torchrun or line.startswith(MARK):
                self.tail.append(line.removeprefix(MARK).strip())
            write_log(2, line)

    def look(self) -> None:
        """Reap what has ended, orphans too, which are PID 1's; note any progress."""
        with suppress(ChildProcessError):
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                if reaped[0] == self._process.pid:
                    self._process.returncode = os.waitstatus_to_exitcode(reaped[1])
                    self.code = self._own_code(self._process.returncode)
                    self._reader.join(timeout=1)
        late = time.monotonic() - self._kill_at
        if late > 0:
            self._send(signal.SIGKILL)
        if late > STUCK and self.code is None:  # in a driver's call that does not return
            self.code = -signal.SIGKILL
        self.progress.look()

    def _own_code(self, code: int) -> int:
        """The trainer's exit code; that of its process, unless the process is torchrun."""
        if not self.is_torchrun:
            return code
        relayed = read_code(self.liveness_file)
        return relayed if relayed is not None else min(code, -signal.SIGKILL)

    def end(self, number: int, grace: float) -> None:
        """Send it a signal, and SIGKILL if it has not ended so many seconds later."""
        self._kill_at = min(self._kill_at, time.monotonic() + grace)
        self._send(number)

    def _send(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.code is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def oom_kills() -> int:
    """How many processes of this container the kernel has killed because memory ran out."""
    with suppress(OSError):
        for line in Path("/sys/fs/cgroup/memory.events").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def describe_exit(code: int) -> str:
    """What an exit code means, to follow "the trainer"."""
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    if code == DEVICE_FAILED:
        return "lost its device or ran out of its memory"
    return f"ended with code {code}"
