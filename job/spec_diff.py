"""Where two specs differ."""

from __future__ import annotations

import json
from typing import Any

from job.faults import Fault


def differences(before: Any, now: Any, path: str = "$") -> list[Fault]:
    """Where two specs differ, as faults of the second."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            fault
            for key in {**before, **now}
            for fault in differences(before.get(key), now.get(key), f"{path}.{key}")
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [
            fault
            for i, (a, b) in enumerate(zip(before, now, strict=True))
            for fault in differences(a, b, f"{path}[{i}]")
        ]
    if before == now:
        return []
    return [
        Fault(
            path,
            json.dumps(now),
            f"the run was begun with {json.dumps(before)}",
            "set it back, or give the run another id",
        )
    ]
