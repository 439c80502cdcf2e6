"""`pods.json`: what was rented for a run, written before each pod is created."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar

from pydantic import AwareDatetime, BaseModel, ConfigDict

from job.record.document import Contents

PREFIX = "evengrad-"
"""Every name of a pod of ours begins so."""


class Attempt(BaseModel):
    """One pod, or the intent to have one."""

    model_config = ConfigDict(frozen=True)

    number: int
    """From 1; part of the pod's name."""
    pod_name: str
    gpu: str
    cloud: str
    intended: AwareDatetime
    """When it was about to be requested."""
    pod: str | None = None
    """Its id, once it is known to exist."""
    cost: float | None = None
    """USD per hour."""
    created: AwareDatetime | None = None
    ended: AwareDatetime | None = None
    """When it was known not to exist, or to exist no more."""
    why: str = ""
    """Why it ended or never existed; without an id and an end, why it may exist."""

    @property
    def is_unsure(self) -> bool:
        """True if the pod was requested, and nobody knows yet if it exists."""
        return self.pod is None and self.ended is None


class RunRef(BaseModel):
    """A run and its store."""

    model_config = ConfigDict(frozen=True)

    name: str
    """The job's."""
    run_id: str
    store: str

    @property
    def run(self) -> str:
        """Key of the run in its store."""
        return f"{self.name}/{self.run_id}"

    def owns(self, pod_name: str, variables: Mapping[str, str]) -> bool:
        """True if a pod is this run's, by its name, and by its variables if RunPod gives them."""
        if not re.fullmatch(f"{re.escape(f'{PREFIX}{self.name}-{self.run_id}')}-[0-9]+", pod_name):
            return False
        given = variables.get("EVENGRAD_NAME", self.name), variables.get("RUN_ID", self.run_id)
        return given == (self.name, self.run_id)


class PodsRecord(RunRef, Contents):
    """All pods of a run."""

    FILE: ClassVar[str] = "pods.json"
    SCHEMA: ClassVar[int | None] = None

    spec_hash: str
    spec_file: str | None = None
    """SHA-256, in hex, of the file that the spec was read from, as the image's label has it."""
    image: str
    """That the newest pod was asked to run."""
    registry: str | None = None
    """Id of the registry's credentials at RunPod."""
    deadline: AwareDatetime
    attempts: tuple[Attempt, ...] = ()

    @property
    def open(self) -> list[Attempt]:
        """The pods that may still bill."""
        return [attempt for attempt in self.attempts if attempt.ended is None]

    def spent(self, now: datetime) -> float:
        """USD so far, of the pods whose price is known."""
        hours = [
            max(0.0, ((a.ended or now) - (a.created or a.intended)).total_seconds()) / 3600
            for a in self.attempts
        ]
        return sum(h * (a.cost or 0.0) for h, a in zip(hours, self.attempts, strict=True))
