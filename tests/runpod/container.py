"""A simulated pod's container: its process is started again whenever it exits, as RunPod does."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.runpod.log import Follower
from tests.runpod.process import SECONDS, PodFolder, Process, Start, children, kill_all
from tests.support.command import ROOT

if TYPE_CHECKING:
    from tests.runpod.pod import SimulatedPod

SECRET = re.compile(r"\{\{\s*RUNPOD_SECRET_([\w./-]+)\s*\}\}")
POLL = 0.02
"""Seconds between two looks at a process; so late an interval's end may be noticed."""


@dataclass
class Timing:
    """How long things take, in real seconds."""

    provisioning: float = 0.05
    starting: float = 0.05
    restart: float = 0.1
    """From an exit to the next boot."""
    grace: float = 5.0
    """From SIGTERM to SIGKILL."""
    pull_retry: float = 1.0
    keep_alive: float = 15.0
    """Between two comments in a stream of logs that has nothing to tell."""


@dataclass
class Host:
    """What all pods share."""

    folder: Path
    url: str
    start: Start
    speed: float
    timing: Timing
    images: dict[str, Path] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)

    def clock(self) -> float:
        """Seconds since the beginning, by the clock that bills."""
        return (time.monotonic() - self.begun) * self.speed


class Interval(NamedTuple):
    """From when to when a process lived, on the simulator's clock."""

    start: float
    end: float = math.inf


class Container(threading.Thread):
    """From a pod's start to its stop, however often the process starts in between."""

    def __init__(self, host: Host, pod: SimulatedPod, before: Container | None) -> None:
        super().__init__(daemon=True)
        self.process: Process | None = None
        self._host, self._pod, self._before = host, pod, before
        self._over, self._again = threading.Event(), threading.Event()
        self._grace: float | None = None
        self._trainers: dict[int, int] = {}
        self._output: list[Follower] = []
        self._folder = host.folder / pod.id
        self._folder.mkdir(parents=True, exist_ok=True)

    def end(self, grace: float | None) -> None:
        """Have it end for good; without a SIGTERM where the grace is 0. Does not wait.

        grace: None for that of the host, whatever it is by then.
        """
        self._grace = grace
        self._over.set()

    @property
    def goes_on(self) -> bool:
        """True unless it has been told to end for good."""
        return self.is_alive() and not self._over.is_set()

    def restart(self) -> None:
        """Have the process end and start again."""
        self._again.set()

    def run(self) -> None:
        if self._before is not None:  # which may still be in its grace
            self._before.join()
        if not self._comes_up():
            self._over.wait()
        while not self._over.is_set():
            self._live()
            self._over.wait(self._host.timing.restart)

    def _comes_up(self) -> bool:
        """Go through the statuses; False where this pod never runs anything."""
        pod, timing = self._pod, self._host.timing
        for status, delay in (("STARTING", timing.provisioning), ("RUNNING", timing.starting)):
            if pod.stuck == pod.status or self._over.wait(delay):
                return False
            if status == "RUNNING" and not self._pulled():
                return False
            pod.become(status, unless=self._over)
        return pod.stuck != "RUNNING"

    def _pulled(self) -> bool:
        """Whether the image is here; where there is none it is pulled again and again."""
        image = self._pod.body["image"]
        self._pod.log.add("system", f"create container {image}")
        while self._pod.failing_pull is not None or image not in self._host.images:
            fault = f"error pulling image: manifest for {image} not found: manifest unknown"
            self._pod.log.add("system", self._pod.failing_pull or fault)
            if self._over.wait(self._host.timing.pull_retry):
                return False
        self._pod.log.add("system", f"pulled image {image}")
        return True

    def _live(self) -> None:
        """A boot, from an empty disk to an end that leaves no process."""
        pod = self._pod
        self._again.clear()
        folder = self._new_folder()
        pod.log.add("system", f"start container for {pod.body['image']}: begin")
        self._output = [Follower(folder.out), Follower(folder.err)]
        at = len(pod.containers)
        pod.containers.append(Interval(self._host.clock()))
        process = self._host.start(folder, environment(self._host, pod, folder))
        self.process = process
        try:
            while process.poll() is None and not (self._over.is_set() or self._again.is_set()):
                self._look(process)
                time.sleep(POLL)
            self._wait_politely(process)
        finally:
            self._kill(process)
        self.process = None
        pod.containers[at] = pod.containers[at]._replace(end=self._host.clock())
        pod.log.add("system", f"stop container {pod.id}")

    def _new_folder(self) -> PodFolder:
        disk, name = self._folder / "disk", f"boot-{len(self._pod.containers) + 1:03d}"
        shutil.rmtree(disk, ignore_errors=True)
        disk.mkdir()
        return PodFolder(disk, self._folder / f"{name}.out", self._folder / f"{name}.err")

    @property
    def _patience(self) -> float:
        return self._host.timing.grace if self._grace is None else self._grace

    def _wait_politely(self, process: Process) -> None:
        asked = time.monotonic()
        if process.poll() is None and self._patience > 0:
            process.signal(signal.SIGTERM)
        while process.poll() is None and time.monotonic() < asked + self._patience:
            self._look(process)
            time.sleep(POLL)

    def _kill(self, process: Process) -> None:
        """The end of PID 1 is the end of all."""
        if process.poll() is None:
            process.signal(signal.SIGKILL)
        kill_all(self._pod.id)
        deadline = time.monotonic() + SECONDS
        while process.poll() is None:
            assert time.monotonic() < deadline, f"{process.pid} cannot be killed"
            time.sleep(POLL)
        self._note_trainers(set())
        self._take_output(last=True)

    def _look(self, process: Process) -> None:
        alive = children(process.pid)
        if process.poll() is None:  # else they are orphans, and may live
            self._note_trainers(alive)
        self._take_output()

    def _note_trainers(self, alive: set[int]) -> None:
        lives, now = self._pod.lives, self._host.clock()
        for pid in alive - self._trainers.keys():
            self._trainers[pid] = len(lives)
            lives.append(Interval(now))
        for pid in self._trainers.keys() - alive:
            at = self._trainers.pop(pid)
            lives[at] = lives[at]._replace(end=now)

    def _take_output(self, last: bool = False) -> None:
        for follower in self._output:
            for text in follower.lines(last):
                self._pod.log.add("container", text)


def environment(host: Host, pod: SimulatedPod, folder: PodFolder) -> dict[str, str]:
    """What PID 1 sees: the image's variables, the pod's over them, RunPod's over both.

    Nothing of the tests' own environment, where credentials may be.
    """
    image = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder.disk),
        "TMPDIR": str(folder.disk),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "EVENGRAD_SPEC": str(host.images[pod.body["image"]]),
        "EVENGRAD_HEARTBEAT": str(folder.disk / "heartbeat.json"),
        "RUNPOD_API_URL": host.url,
    }
    injected = {
        "RUNPOD_POD_ID": pod.id,
        "RUNPOD_API_KEY": pod.key,
        "RUNPOD_DC_ID": pod.data_center,
        "RUNPOD_POD_HOSTNAME": f"{pod.id}-64410001",
        "RUNPOD_GPU_COUNT": str(pod.gpu["count"] if pod.gpu else 0),
        "RUNPOD_CPU_COUNT": "8",
    }
    return image | filled(pod.env, host.secrets) | injected


def filled(env: Mapping[str, str], secrets: Mapping[str, str]) -> dict[str, str]:
    """Variables with the secrets that exist; what names an unknown one stays as it is."""
    return {
        name: SECRET.sub(lambda found: secrets.get(found[1], found[0]), value)
        for name, value in env.items()
    }
