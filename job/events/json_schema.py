"""The published schema of the lines that a run writes."""

from __future__ import annotations

import json
from typing import Any, get_args

from job.events.types import EVENT, SCHEMA, Event

Json = dict[str, Any]

ENVELOPE: Json = {
    "ts": {"type": "string", "format": "date-time", "description": "When, UTC."},
    "schema": {"const": SCHEMA, "description": "Version of this schema."},
    "run_id": {"type": "string", "description": "The run."},
    "seq": {"type": "integer", "minimum": 1, "description": "Counted from 1, without a gap."},
}
"""The fields that every line begins with."""


def schema() -> Json:
    """The JSON Schema (draft 2020-12) of one line of a run's record."""
    records = EVENT.json_schema()["$defs"]
    for record in records.values():
        _as_written(record)
    kinds = [kind.__name__ for kind in get_args(get_args(Event)[0])]
    lines = [_line(records[name]) for name in kinds]
    used = json.dumps([lines, records])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:evengrad:events:{SCHEMA}",
        "title": "evengrad event",
        "oneOf": lines,
        "$defs": {name: r for name, r in records.items() if f'"#/$defs/{name}"' in used},
    }


def _line(event: Json) -> Json:
    """An event's schema with the fields that every line begins with."""
    return event | {
        "properties": ENVELOPE | event["properties"],
        "required": [*ENVELOPE, *event["required"]],
    }


def _as_written(record: Json) -> None:
    """Change a record's schema to what `events.fields` writes.

    A null is a number that is not finite, and has its flag beside it. Every other field is there,
    unless it may be null.
    """
    flags: Json = {}
    record["required"] = []
    for name, field in record["properties"].items():
        kinds = field.pop("anyOf", [])
        for kind in kinds:
            if kind != {"type": "null"}:
                field |= kind
        if not kinds:
            record["required"].append(name)
        field.pop("default", None)
        numbers = field.get("items", field)
        if numbers.get("type") == "number":
            numbers["type"] = ["number", "null"]
            flags[f"{name}_nonfinite"] = {
                "const": True,
                "description": f"{name} is, or holds, a number that is not finite, written null.",
            }
    record["properties"] |= flags
