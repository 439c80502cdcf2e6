"""`result.json`: how a run ended; the run index holds the same."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from job.events import RunFinished, fields
from job.record.document import Contents, GivenFields


class GateOutcome(GivenFields, BaseModel):
    """A gate's verdict."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    event: str = "gate"
    gate: str
    """The gate in words."""
    passed: bool
    measured: float | None = None
    """None if the run ended before it was measured, or if it is not finite."""
    measured_nonfinite: bool = False
    unit: str = "share"
    """Of the measured value: share or ratio."""
    epoch: int = 0
    """The epoch at which it was measured."""
    error: float | None = None
    """Standard error of a measured skill."""
    trivial: float | None = None
    """Beside a measured drop, how much of it a trivial prediction would show."""
    why: str | None = None
    """Why the gate failed, if the measured value alone does not say it."""


class TaskWorth(GivenFields, BaseModel):
    """What a task's predictions are worth on the validation split."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    beats: bool
    """True if they surely beat the strongest trivial prediction."""
    skill: float | None = None
    error: float | None = None
    """Standard error of the skill."""
    why: str | None = None
    """Why there is no skill."""


class TaskTest(GivenFields, BaseModel):
    """A task on the test split, in original units."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    loss_original: float | None = None
    """None if it is not finite."""
    trivial_loss_original: float | None = None
    """Of the strongest trivial prediction on this split."""
    skill: float | None = None
    """None if the split cannot tell."""
    skill_error: float | None = None
    """Standard error of the skill."""
    metrics: dict[str, float | None] = {}


class Result(GivenFields, Contents):
    """How a run ended."""

    FILE: ClassVar[str] = "result.json"
    SCHEMA: ClassVar[int | None] = None

    run_id: str = ""
    spec_hash: str = ""
    """SHA-256 of the spec's content."""
    reason: str
    """One of job.events.Reason; a newer version may know others."""
    exit_code: int
    gates: tuple[GateOutcome, ...] = ()
    """Every gate of the spec."""
    worth: dict[str, TaskWorth] = {}
    """By task; empty if no epoch ended, and in older records."""
    test: dict[str, TaskTest] = {}
    """By task; empty if the run measured no test split."""
    control: bool = False
    """True if the targets were permuted: not a run of the job."""
    steps: int = 0
    """Steps taken."""
    epochs: int = 0
    """Epochs finished."""
    seconds: float = 0.0
    """Training time, over all attempts."""
    error: str | None = None
    """What went wrong, in one line."""
    checkpoint: str | None = None
    """Folder of the newest checkpoint, below the run's."""


def result_of(event: RunFinished, run_id: str, spec_hash: str, checkpoint: str | None) -> Result:
    """The result that an event `run.finished` decides."""
    ids = {"run_id": run_id, "spec_hash": spec_hash, "checkpoint": checkpoint}
    return Result.model_validate({**fields(event), **ids})
