"""A container's life as a process: `python -m job.supervise` with a container's environment."""

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

from tests.command import ROOT, environment
from tests.nursery import until

PLANTED = """
import os, sys
from pathlib import Path

if sys.orig_argv[1:4] == ["-m", "job", "run"]:
    import job.train

    train, starts = job.train.Training.run, Path({starts!r})

    def failing(self, *arguments):
        started = len(starts.read_text()) if starts.exists() else 0
        starts.write_text("." * (started + 1))
        if started < {times}:
            {deed}
        train(self, *arguments)

    job.train.Training.run = failing
"""


class Life:
    """One life of a container, which keeps its output in files."""

    def __init__(
        self, folder: Path, spec: Path, store: str, *, out: Any = None, **settings: str
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.heartbeat = folder / "heartbeat.json"
        variables = {
            "EVENGRAD_SPEC": str(spec),
            "EVENGRAD_STORE": store,
            "EVENGRAD_HEARTBEAT": str(self.heartbeat),
            "TMPDIR": str(folder),
            "RUN_ID": "r",
            # Faults may be planted in the folder (`plant`); else it adds nothing.
            "PYTHONPATH": f"{folder}:{ROOT}",
        }
        with (folder / "out").open("w") as file, (folder / "err").open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "job.supervise"],
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

    def wait(self, seconds: float = 60.0) -> int:
        """The container's exit code."""
        until(lambda: self.process.poll() is not None, seconds, lambda: self.err)
        return self.process.returncode

    def trainer(self) -> int:
        """Process id of the trainer, once there is one."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        until(lambda: bool(children.read_text().split()), say=lambda: self.err)
        return int(children.read_text().split()[0])

    def until_step(self, step: int) -> None:
        """Wait until the trainer has told of a step."""
        until(lambda: f'"step":{step},' in self.out, say=lambda: self.err, pause=0.002)


@contextmanager
def alive(
    folder: Path, spec: Path, store: str, *, out: Any = None, **settings: str
) -> Iterator[Life]:
    """A life that ends with the block at the latest, its trainer with it."""
    life = Life(folder, spec, store, out=out, **settings)
    try:
        yield life
    finally:
        if life.process.poll() is None:
            trainers = Path(f"/proc/{life.process.pid}/task/{life.process.pid}/children")
            for pid in [life.process.pid, *map(int, trainers.read_text().split())]:
                os.kill(pid, signal.SIGKILL)
            life.process.wait()


def ended(folder: Path, spec: Path, store: str, **settings: str) -> Life:
    """A life from its beginning to its end."""
    with alive(folder, spec, store, **settings) as life:
        life.wait()
        return life


def plant(folder: Path, deed: str, times: int) -> Path:
    """Have the trainers started in a folder do something instead of training, so many times.

    Returns the file that has a character for each start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = folder / "starts"
    text = PLANTED.format(starts=str(starts), times=times, deed=deed)
    (folder / "sitecustomize.py").write_text(text)
    return starts
