"""RunPod's replies as typed models, which rely on nothing but an id."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

OURS = ("EVENGRAD_STORE", "EVENGRAD_NAME", "EVENGRAD_DEADLINE", "RUN_ID")
"""The variables of a pod that identify its run; all others, perhaps secrets, are dropped."""
DEAD = frozenset({"EXITED", "ERROR", "TERMINATED"})
"""Statuses of a pod whose container does not run."""


def _or_none(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """None for a value that cannot be read: a changed reply must not hide a pod."""
    try:
        return read(value)
    except ValidationError:
        return None


def _or_default(value: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    known = _or_none(value, read)
    return DEFAULTS[info.field_name or ""] if known is None else known


DEFAULTS: dict[str, Any] = {"name": "", "status": "UNKNOWN", "variables": {}}
Lenient = WrapValidator(_or_none)
Defaulting = WrapValidator(_or_default)


class Reply(BaseModel):
    """A part of a reply; unknown fields are dropped."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class PodGpu(Reply):
    """The GPUs of a pod."""

    id: str
    count: int = 1


class Pod(Reply):
    """A pod."""

    id: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Defaulting] = ""
    status: Annotated[str, Defaulting] = "UNKNOWN"
    """PROVISIONING, STARTING, RUNNING, EXITED, ERROR, TERMINATED, or an unknown one."""
    cost: Annotated[float | None, Lenient] = None
    """USD per hour, for the whole pod."""
    gpu: Annotated[PodGpu | None, Lenient] = None
    cloud: Annotated[str | None, Lenient] = None
    image: Annotated[str | None, Lenient] = None
    created: Annotated[datetime | None, Lenient] = Field(None, alias="createdAt")
    variables: Annotated[dict[str, str], Defaulting] = Field({}, alias="env")
    """Those named in OURS."""

    @property
    def is_dead(self) -> bool:
        """True if RunPod says that its container does not run."""
        return self.status in DEAD

    @field_validator("variables", mode="before")
    @classmethod
    def _ours(cls, env: Any) -> dict[str, str]:
        pairs = env.items() if isinstance(env, dict) else ()
        return {name: value for name, value in pairs if name in OURS and isinstance(value, str)}

    @field_validator("created")
    @classmethod
    def _in_utc(cls, created: datetime | None) -> datetime | None:
        return created.replace(tzinfo=created.tzinfo or UTC) if created is not None else None


class ByCloud(Reply):
    """A number for each cloud; None or 0 if there is nothing."""

    secure: Annotated[float | None, Lenient] = None
    community: Annotated[float | None, Lenient] = None

    def of(self, cloud: str) -> float | None:
        """The number for SECURE or COMMUNITY."""
        return self.secure if cloud == "SECURE" else self.community


class Gpu(Reply):
    """A row of the catalogue."""

    id: str
    memory: Annotated[int | None, Lenient] = None
    """GB."""
    price: ByCloud = ByCloud()
    """USD per hour for one."""
    most: ByCloud = Field(ByCloud(), alias="maxCount")
    """Most of them in one pod."""
    availability: Annotated[str | None, Lenient] = None
    """NONE, LOW, MEDIUM, HIGH; None if it was not asked for."""


class Secret(Reply):
    """A secret of the account: its name, never its value."""

    name: str


class LogLine(NamedTuple):
    """A line of a pod's log."""

    id: str | None
    """To resume the log after it."""
    data: dict[str, Any]

    @property
    def text(self) -> str:
        """The line itself."""
        return str(self.data.get("line", "")).rstrip()
