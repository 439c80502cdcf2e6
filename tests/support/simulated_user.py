"""A user of the simulated RunPod: a spec, an image, a store, and `deploy` as real processes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from job.store import Store, open_store
from tests.runpod.container import Timing
from tests.runpod.pod import SimulatedPod
from tests.runpod.process import Start
from tests.runpod.simulator import Simulator, simulated
from tests.support.image_registry import Registry, serving
from tests.support.light_trainer import container
from tests.support.tiny_job import write
from tests.support.warm_process import Nursery, Process

L4, A4000 = "NVIDIA L4", "NVIDIA RTX A4000"
REPOSITORY = "me/evengrad"
RESOURCES: dict[str, Any] = {
    "gpu": [L4, A4000],
    "cloud": ["SECURE", "COMMUNITY"],
    "max_price_per_hour": 0.5,
    "max_hours": 0.5,
}
FAST: dict[str, Any] = {
    "deploy.runpod.lookup:LISTINGS": 3,
    "deploy.runpod.lookup:LISTING_SECONDS": 0.1,
    "deploy.runpod.lookup:UNSEEN_SECONDS": 4.0,
    "deploy.runpod.terminate:GONE_SECONDS": 0.05,
    "deploy.pods.provision:LOOK_SECONDS": 0.2,
    "deploy.pods.provision:LONGEST_PAUSE": 0.05,
    "deploy.pods.follow:LOOK_SECONDS": 0.2,
    "deploy.pods.follow:QUIET_SECONDS": 1.0,
    "deploy.pods.follow:SEE_OFF_SECONDS": 0.1,
    "deploy.pods.signs_of_life:PAUSE": 0.1,
    "deploy.pods.signs_of_life:REOPEN_SECONDS": 0.1,
    "deploy.runpod.client:LONGEST_WAIT": 0.05,
    "deploy.runpod.client:ATTEMPTS": 3,
    "deploy.cancel:POLL_SECONDS": 0.1,
}
"""Shorter pauses between two looks: they change how often a submitter asks, not what it does."""
PATIENT: dict[str, Any] = {
    "deploy.pods.follow:SELF_END_SECONDS": 600.0,
    "deploy.pods.signs_of_life:DRAIN_SECONDS": 600.0,
    "deploy.runpod.client:TIMEOUT": 600.0,
}
"""Longer limits on what may take long on a busy machine, and ends by itself."""


class Renting:
    """What a user has at hand."""

    def __init__(
        self, folder: Path, runpod: Simulator, registry: Registry, store: str, nursery: Nursery
    ) -> None:
        self.folder, self.runpod, self.url, self.nursery = folder, runpod, store, nursery
        self.registry = registry
        self.environment = os.environ | {
            "RUNPOD_API_URL": runpod.url,
            "RUNPOD_API_KEY": runpod.key,
            "EVENGRAD_STORE": store,
            "EVENGRAD_STATE": str(folder / "state"),
            "DOCKER_CONFIG": str(folder),
            "COLUMNS": "160",
        }
        self.spec = self.write()
        self.variables = folder / "pod.env"
        wanted = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        values = {name: os.environ.get(name, "none") for name in wanted}
        self.variables.write_text("".join(f"{n}='{value}'\n" for n, value in values.items()))

    def write(self, **edits: Any) -> Path:
        """Write the spec anew, and bake it into an image."""
        base = {"resources": RESOURCES, "checkpoint.lease_seconds": 1}
        self.spec = write(self.folder, base | edits)
        self.image = self.push(self.spec, self.spec)
        return self.spec

    def push(self, spec: Path, labelled: Path) -> str:
        """Push an image with a copy of a spec, and the label of one; returns its reference by
        digest."""
        label = {"evengrad.spec.sha256": hashlib.sha256(labelled.read_bytes()).hexdigest()}
        entry = self.registry.put_image(REPOSITORY, "it", "amd64", **label)
        image = f"{self.registry.reference(REPOSITORY)}@{entry['digest']}"
        baked = spec.with_name(f"baked-{entry['digest'][-12:]}.json")  # beside the spec's data
        baked.write_bytes(spec.read_bytes())
        self.runpod.images[image] = baked
        return image

    @property
    def store(self) -> Store:
        return open_store(self.url)

    def start(self, command: str, *arguments: str | Path, **patches: Any) -> Process:
        """`python -m deploy.COMMAND`, with shorter pauses."""
        return self.nursery.start(
            *arguments,
            program=f"deploy.{command}",
            environment=self.environment,
            patches=FAST | PATIENT | patches,
        )

    def submit(self, *options: str | Path, **patches: Any) -> Process:
        """`deploy.submit` of the spec, confirmed."""
        image = ("--image", self.image, "--env-file", self.variables, "--yes")
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

    @contextmanager
    def held(self) -> Iterator[None]:
        """Light trainers take no further step within the block."""
        hold = self.folder / "pods" / "hold"
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    @property
    def run_id(self) -> str:
        """Of the newest run that this user has submitted."""
        return max(path.stem for path in (self.folder / "state").glob("[!.]*.json"))

    @property
    def pods(self) -> list[SimulatedPod]:
        return list(self.runpod.pods.values())

    @property
    def record(self) -> dict[str, Any]:
        """This machine's pods record of the newest run."""
        text = (self.folder / "state" / f"{self.run_id}.json").read_text()
        record: dict[str, Any] = json.loads(text)
        return record


@contextmanager
def renting(
    folder: Path, store: str, nursery: Nursery, start: Start = container
) -> Iterator[Renting]:
    """A user with an account.

    start: what pods run; by default the real supervisor over a trainer without torch.
    """
    pods = folder / "pods"
    pods.mkdir()
    with (
        serving() as registry,
        simulated(pods, start=start, timing=Timing(grace=1.0)) as runpod,
    ):
        yield Renting(folder, runpod, registry, store, nursery)
