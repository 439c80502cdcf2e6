"""Real processes of `python -m job` and `deploy.X` that start at once: forked from a warm one.

`python -m tests.support.warm_process` reads orders, one JSON object a line, and forks a child for
each, which runs as from the command line, from `main` to the interpreter's end.
"""

from __future__ import annotations

import ctypes
import datetime
import faulthandler
import importlib
import itertools
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
SECONDS = 600.0
"""After which a test gives up waiting: far longer than anything takes on a busy machine."""
LOADED = (
    *(
        "botocore.auth",
        "job.record.claim",
        "job.data.dataset",
        "job.run.attempt",
        "job.show.lines",
        "job.store.s3",
    ),
    *("deploy.pods.follow", "deploy.plan.prepare", "deploy.runs.state", "deploy.runs.table"),
)
"""What the programs import late."""


class Process:
    """A child and its output."""

    def __init__(self, nursery: Nursery, pid: int, output: Path) -> None:
        self.nursery, self.pid, self.output = nursery, pid, output
        self._code: int | None = None

    def signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.code is None:
            os.kill(self.pid, number)

    @property
    def code(self) -> int | None:
        """Its exit code, minus the signal that ended it, or None while it lives."""
        if self._code is None:
            self._code = self.nursery.ask({"poll": self.pid})
        return self._code

    def wait(self, seconds: float = SECONDS) -> int:
        """Its exit code, once it has ended; fails after so many seconds."""
        until(lambda: self.code is not None, seconds, lambda: f"{self.out[-2000:]}\n{self.err}")
        assert self._code is not None
        return self._code

    @property
    def out(self) -> str:
        """Its stdout: events."""
        return self.output.with_suffix(".out").read_text()

    @property
    def err(self) -> str:
        """Its stderr."""
        return self.output.with_suffix(".err").read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The whole lines that it printed."""
        return [json.loads(line) for line in self.out.splitlines(True) if line.endswith("\n")]

    def until_step(self, step: int) -> None:
        """Wait until it has printed a step, or has ended."""
        until(
            lambda: f'"step":{step},' in self.out or self.code is not None,
            say=lambda: self.out[-2000:] + self.err,
            pause=0.002,
        )


def until(
    condition: Callable[[], bool],
    seconds: float = SECONDS,
    say: Callable[[], str] = str,
    pause: float = 0.01,
) -> None:
    """Wait for a condition; after so many seconds, fail with what `say` returns."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {say()}"
        time.sleep(pause)


class Nursery:
    """The warm process, which forks children on demand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count()
        self._asking = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.children: list[Process] = []

    def start(
        self,
        *arguments: str | Path,
        program: str = "job",
        environment: Mapping[str, str] | None = None,
        patches: Mapping[str, Any] | None = None,
        skew: float = 0.0,
        hold: tuple[Path, int] | None = None,
        folder: Path | None = None,
    ) -> Process:
        """`python -m PROGRAM ARGUMENTS`; by default with this process's environment and folder.

        patches: values by `module:name`. skew: seconds by which the child's wall clock is wrong.
        hold: folder and step of a tests.support.hold.Hold.
        """
        output = self.folder / f"output-{next(self._numbers)}"
        for kind in (".out", ".err"):
            output.with_suffix(kind).touch()
        order = {
            "program": program,
            "arguments": [str(argument) for argument in arguments],
            "environment": dict(os.environ if environment is None else environment),
            "output": str(output),
            "hold": None if hold is None else (str(hold[0]), hold[1]),
            "patches": {"tempfile:tempdir": str(self.folder), **(patches or {})},
            "skew": skew,
            "folder": None if folder is None else str(folder),
        }
        process = Process(self, self.ask(order), output)
        self.children.append(process)
        return process

    def ask(self, order: dict[str, Any]) -> Any:
        """Send one order and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._asking:
            print(json.dumps(order), file=self._process.stdin, flush=True)
            return json.loads(self._process.stdout.readline())

    def end_children(self) -> None:
        """Kill the children that still run."""
        for child in self.children:
            child.signal(signal.SIGKILL)
            child.wait()
        self.children.clear()

    def close(self) -> None:
        """End the warm process."""
        self._process.communicate()


def _serve() -> str:
    """Fork a child for each order. Only a child returns, with the name of its program."""
    for line in sys.stdin:
        order = json.loads(line)
        if "poll" in order:
            pid, status = os.waitpid(order["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                _become(order)
                return str(order["program"])
        print(json.dumps(answer), flush=True)
    sys.exit()


def _become(order: dict[str, Any]) -> None:
    """Make this process look freshly started, with its own output and environment."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # no child outlives a killed pytest
    os.environ.clear()
    os.environ.update(order["environment"])
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{order['output']}.{kind}", os.O_WRONLY | os.O_APPEND), number)
    faulthandler.dump_traceback_later(0.9 * SECONDS)  # where it hangs, before a test gives up
    for where, value in order["patches"].items():
        module, _, name = where.partition(":")
        setattr(importlib.import_module(module), name, value)
    if order["folder"]:
        os.chdir(order["folder"])
    if order["skew"]:
        _skew(order["skew"])
    if order["hold"]:
        from tests.support.hold import install

        install(*order["hold"])
    sys.argv = [order["program"], *order["arguments"]]


def _skew(seconds: float) -> None:
    """Shift this process's wall clock, in every module that has been imported."""
    true_time = time.time

    class Skewed(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return cls.fromtimestamp(true_time() + seconds, tz)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.now(datetime.UTC).replace(tzinfo=None)

    true_datetime = datetime.datetime
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()):
            if value is true_datetime:
                setattr(module, name, Skewed)
            elif value is true_time:
                setattr(module, name, lambda: true_time() + seconds)


def _warm_up() -> None:
    """Import what a run imports late, and train once: torch is slower the first time."""
    for name in LOADED:
        importlib.import_module(name)
    from tests.support.tiny_job import Trained, job, write

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        Trained(*job(Path(folder), {"train.epochs": 1})).run()


if __name__ == "__main__":
    _warm_up()
    from job.cli.app import main

    program = _serve()
    if program == "job":
        main()
    else:
        try:
            runpy.run_module(program, run_name="__main__")
        except SystemExit as end:
            sys.stdout.flush()
            # Tearing down all that is loaded here takes a second, which deploy itself never needs.
            os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
