"""Where two specs differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from job.faults import Fault


class Difference(NamedTuple):
    """One place of a spec."""

    where: str
    """JSON path."""
    before: Any
    """The first one's value; None where it has none."""
    now: Any


def compared(before: Any, now: Any, path: str = "$") -> Iterator[Difference]:
    """Where two specs, as JSON values, differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from compared(before.get(key), now.get(key), f"{path}.{key}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (a, b) in enumerate(zip(before, now, strict=True)):
            yield from compared(a, b, f"{path}[{i}]")
    elif before != now:
        yield Difference(path, before, now)


def differences(before: Any, now: Any) -> list[Fault]:
    """Where two specs differ, as faults of the second."""
    return [
        Fault(
            where,
            json.dumps(new),
            f"the run was begun with {json.dumps(old)}",
            "set it back, or give the run another id",
        )
        for where, old, new in compared(before, now)
    ]
