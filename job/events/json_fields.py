"""An event's fields as JSON values, in which no number is infinite or NaN."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel


def fields(event: BaseModel) -> dict[str, Any]:
    """The event's own fields as JSON values; only a number that is not finite is null, and flagged.

    A field that may be null and is, such as `shared_grad_norm` between audits, is left out.
    """
    return _finite(event.model_dump(exclude_none=True))


def _finite(record: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, float):  # first: nearly all are
            out[key] = value
            if not math.isfinite(value):
                out[key], out[f"{key}_nonfinite"] = None, True
        elif isinstance(value, dict):
            out[key] = _finite(value)
        elif isinstance(value, list):
            out[key] = [
                _finite(x) if isinstance(x, dict) else None if _is_broken(x) else x for x in value
            ]
            if any(map(_is_broken, value)):
                out[f"{key}_nonfinite"] = True
        else:
            out[key] = value
    return out


def _is_broken(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
