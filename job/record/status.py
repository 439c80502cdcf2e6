"""A run's signs of life: `status.json`, replaced every few seconds, and `boots.json`."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import ClassVar

from job.record.document import Contents, GivenFields


class Status(GivenFields, Contents):
    """`status.json`: how far a run is. Not every writer knows every field."""

    FILE: ClassVar[str] = "status.json"

    phase: str
    """starting, training, saving, interrupted, or the reason of the end."""
    heartbeat: str | None = None
    """When it was written, UTC, ISO 8601."""
    step: int | None = None
    """Steps taken."""
    epoch: int | None = None
    """Epochs finished."""
    steps: int | None = None
    """Steps of the whole run."""
    progress: float | None = None
    """step / steps."""
    eta_seconds: float | None = None
    boots: int | None = None
    """Attempts so far: the lease epoch."""
    lease_epoch: int | None = None
    losses: dict[str, float | None] = {}
    """By task, training split, original units; None if it is not finite."""
    checkpoint_step: int | None = None
    """Steps that the newest checkpoint in the store holds."""
    exit_code: int | None = None
    """Only after an end."""
    error: str | None = None
    """What ended the attempt, in one line."""
    pod: str | None = None
    """Id of the pod whose container failed; None outside RunPod."""

    @property
    def written_at(self) -> datetime | None:
        """The heartbeat as a time; None if it is missing or no time."""
        with suppress(TypeError, ValueError):
            return datetime.fromisoformat(self.heartbeat or "").astimezone(UTC)
        return None


class Boots(Contents):
    """`boots.json`: how often a container has started since the last new checkpoint."""

    FILE: ClassVar[str] = "boots.json"

    step: int = -1
    """Steps of the newest checkpoint at the last start."""
    boots: int
    """Starts since that checkpoint, the last one included."""
    pod: str | None = None
    """Id of the pod that started last; None outside RunPod."""
