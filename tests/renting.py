"""A user of the simulated RunPod: a spec, an image, a store, and `deploy` as real processes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from job.store import Store, open_store
from tests.light import container
from tests.nursery import Nursery, Process
from tests.runpod_process import Start
from tests.runpod_simulator import SimulatedPod, Simulator, Timing, simulated
from tests.small import write

IMAGE = "registry.example/me/evengrad@sha256:" + "0" * 64
L4, A4000 = "NVIDIA L4", "NVIDIA RTX A4000"
RESOURCES: dict[str, Any] = {
    "gpu": [L4, A4000],
    "cloud": ["SECURE", "COMMUNITY"],
    "max_price_per_hour": 0.5,
    "max_hours": 0.5,
}
FAST: dict[str, Any] = {
    "deploy.looking:LISTINGS": 3,
    "deploy.looking:LISTING_SECONDS": 0.1,
    "deploy.ending:GONE_SECONDS": 0.05,
    "deploy.rent:LOOK_SECONDS": 0.2,
    "deploy.rent:UNSEEN_SECONDS": 1.5,
    "deploy.ending:UNSEEN_SECONDS": 1.5,
    "deploy.rent:LONGEST_PAUSE": 0.05,
    "deploy.rent:LAG_SECONDS": 3.0,
    "deploy.ending:END_SECONDS": 8.0,
    "deploy.follow:LOOK_SECONDS": 0.2,
    "deploy.follow:QUIET_SECONDS": 1.0,
    "deploy.follow:SELF_END_SECONDS": 20.0,
    "deploy.follow:SEE_OFF_SECONDS": 0.1,
    "deploy.life:PAUSE": 0.1,
    "deploy.life:AGAIN_SECONDS": 0.2,
    "deploy.runpod_api:TIMEOUT": 0.8,
    "deploy.runpod_api:LONGEST_WAIT": 0.05,
    "deploy.runpod_api:ATTEMPTS": 3,
}
"""Patches that make a submitter wait less; what it does is the same."""


class Renting:
    """What a user has at hand."""

    def __init__(self, folder: Path, runpod: Simulator, store: str, nursery: Nursery) -> None:
        self.folder, self.runpod, self.url, self.nursery = folder, runpod, store, nursery
        self.environment = os.environ | {
            "RUNPOD_API_URL": runpod.url,
            "RUNPOD_API_KEY": runpod.key,
            "EVENGRAD_STORE": store,
            "EVENGRAD_STATE": str(folder / "state"),
            "COLUMNS": "160",
        }
        self.spec = self.write()
        self.variables = folder / "pod.env"
        wanted = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        values = {name: os.environ.get(name, "none") for name in wanted}
        self.variables.write_text("".join(f"{n}='{value}'\n" for n, value in values.items()))

    def write(self, **edits: Any) -> Path:
        """The spec, anew, baked into the image."""
        base = {"resources": RESOURCES, "checkpoint.lease_seconds": 1}
        self.spec = write(self.folder, base | edits)
        self.runpod.images[IMAGE] = self.spec
        return self.spec

    @property
    def store(self) -> Store:
        return open_store(self.url)

    def start(self, command: str, *arguments: str | Path, **patches: Any) -> Process:
        """`python -m deploy.COMMAND`, with less patience."""
        return self.nursery.start(
            *arguments,
            program=f"deploy.{command}",
            environment=self.environment,
            patches=FAST | patches,
        )

    def submit(self, *options: str | Path, **patches: Any) -> Process:
        """`deploy.submit` of the spec, confirmed."""
        image = ("--image", IMAGE, "--env-file", self.variables, "--yes")
        return self.start("submit", self.spec, *image, *options, **patches)

    def resume(self, run: str, *options: str | Path, **patches: Any) -> Process:
        """`deploy.submit --resume`, confirmed."""
        given = ("--env-file", self.variables, "--yes", *options)
        return self.start("submit", "--resume", run, *given, **patches)

    def done(self, command: str, *arguments: str | Path) -> Process:
        """A command that has ended."""
        process = self.start(command, *arguments)
        process.wait()
        return process

    @property
    def run_id(self) -> str:
        """Of the newest run that this user has submitted."""
        return max(path.stem for path in (self.folder / "state").glob("[!.]*.json"))

    @property
    def pods(self) -> list[SimulatedPod]:
        return list(self.runpod.pods.values())

    @property
    def book(self) -> dict[str, Any]:
        """What this machine remembers of the newest run."""
        found: dict[str, Any] = json.loads(
            (self.folder / "state" / f"{self.run_id}.json").read_text()
        )
        return found


@contextmanager
def renting(
    folder: Path, store: str, nursery: Nursery, start: Start = container
) -> Iterator[Renting]:
    """A user with an account.

    start: what pods run; by default the real supervisor over a trainer without torch.
    """
    with simulated(folder / "pods", start=start, timing=Timing(grace=1.0)) as runpod:
        yield Renting(folder, runpod, store, nursery)
