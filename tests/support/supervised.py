"""A container as a process: `python -m job.supervise` with a container's environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.command import ROOT, environment
from tests.support.hold import Hold
from tests.support.warm_process import SECONDS, until

SUPERVISOR = "job.supervise"
CLOCKED = "tests.support.clocked_supervisor"
"""The supervisor with a clock that `pass_time` moves."""
PLANTED = """
import os, sys
from pathlib import Path

if sys.orig_argv[1:4] == ["-m", "job", "run"]:
    import job.train.trainer

    train, starts = job.train.trainer.Trainer.run, Path({starts!r})

    def failing(self, *arguments):
        started = len(starts.read_text()) if starts.exists() else 0
        starts.write_text("." * (started + 1))
        if started < {times}:
            {deed}
        train(self, *arguments)

    job.train.trainer.Trainer.run = failing
"""
HELD = """
import sys

if sys.orig_argv[1:4] == ["-m", "job", "run"]:
    from tests.support.hold import install

    install({place!r}, {step})
"""


class Container:
    """One life of a container, which writes its output to files of its folder."""

    def __init__(
        self,
        folder: Path,
        spec: Path,
        store: str,
        *,
        out: Any = None,
        module: str = SUPERVISOR,
        **settings: str,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.liveness_file = folder / "liveness.json"
        self._clock, self._passed = folder / "clock", 0.0
        variables = {
            "EVENGRAD_SPEC": str(spec),
            "EVENGRAD_STORE": store,
            "EVENGRAD_HEARTBEAT": str(self.liveness_file),
            "TMPDIR": str(folder),
            "RUN_ID": "r",
            "SUPERVISOR_CLOCK": str(self._clock),
            # Faults may be planted in the folder (`plant`, `hold`); else it adds nothing.
            "PYTHONPATH": f"{folder}:{ROOT}",
        }
        with (folder / "out").open("w") as file, (folder / "err").open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=folder,
                env=environment(**(variables | settings)),
                stdout=file if out is None else out,
                stderr=err,
            )

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The whole lines that the trainer printed."""
        return [json.loads(line) for line in self.out.splitlines(True) if line.endswith("\n")]

    def wait(self, seconds: float = SECONDS) -> int:
        """The container's exit code."""
        until(lambda: self.process.poll() is not None, seconds, lambda: self.err)
        return self.process.returncode

    def trainer(self) -> int:
        """Process id of the trainer, once there is one."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        until(lambda: bool(children.read_text().split()), say=lambda: self.err)
        return int(children.read_text().split()[0])

    def until_step(self, step: int) -> None:
        """Wait until the trainer has printed a step."""
        until(lambda: f'"step":{step},' in self.out, say=lambda: self.err, pause=0.002)

    def pass_time(self, seconds: float) -> None:
        """Move the clock of a CLOCKED supervisor forward."""
        self._passed += seconds
        partial = self._clock.with_suffix(".part")
        partial.write_text(str(self._passed))
        partial.rename(self._clock)


@contextmanager
def alive(
    folder: Path,
    spec: Path,
    store: str,
    *,
    out: Any = None,
    module: str = SUPERVISOR,
    **settings: str,
) -> Iterator[Container]:
    """A container that is killed at the end of the block, its trainer with it."""
    container = Container(folder, spec, store, out=out, module=module, **settings)
    try:
        yield container
    finally:
        if container.process.poll() is None:
            pid = container.process.pid
            trainers = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            for each in [pid, *map(int, trainers.split())]:
                os.kill(each, signal.SIGKILL)
            container.process.wait()


def ended(folder: Path, spec: Path, store: str, **settings: str) -> Container:
    """A container after its end."""
    with alive(folder, spec, store, **settings) as container:
        container.wait()
        return container


def plant(folder: Path, deed: str, times: int) -> Path:
    """Have the trainers started in a folder do something instead of training, so many times.

    Returns the file that has a character for each start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = folder / "starts"
    text = PLANTED.format(starts=str(starts), times=times, deed=deed)
    (folder / "sitecustomize.py").write_text(text)
    return starts


def hold(folder: Path, step: int) -> Hold:
    """Have the trainers started in a folder wait after a step, until they are released."""
    place = folder / "hold"
    place.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(HELD.format(place=str(place), step=step))
    return Hold(place)
