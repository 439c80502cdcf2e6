"""An event from the line that a run's record has of it."""

from __future__ import annotations

import math
from typing import Any

from job.events.log import Line
from job.events.types import EVENT, Event

ENVELOPE = frozenset({"ts", "schema", "run_id", "seq"})
FLAG = "_nonfinite"


def event_of(line: Line) -> Event:
    """The typed event; a number that was not finite is NaN. Raises pydantic's ValidationError."""
    return EVENT.validate_python(_restored({k: v for k, v in line.items() if k not in ENVELOPE}))


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return list(map(_restored, value))
    if not isinstance(value, dict):
        return value
    return {
        name: math.nan if value.get(f"{name}{FLAG}") is True and each is None else _restored(each)
        for name, each in value.items()
        if not (name.endswith(FLAG) and name.removesuffix(FLAG) in value)
    }
