"""The published schema of the lines that a run writes."""

from __future__ import annotations

from typing import Any, get_args

from job.events import EVENT, SCHEMA, Event

Json = dict[str, Any]

ENVELOPE: Json = {
    "ts": {"type": "string", "format": "date-time", "description": "When, UTC."},
    "schema": {"const": SCHEMA, "description": "Version of this schema."},
    "run_id": {"type": "string", "description": "The run."},
    "seq": {"type": "integer", "minimum": 1, "description": "Counted from 1, without a gap."},
}
"""What every line begins with."""


def schema() -> Json:
    """JSON Schema (draft 2020-12) of one line of a run's record."""
    made = EVENT.json_schema()
    events = [kind.__name__ for kind in get_args(get_args(Event)[0])]
    for name, record in made["$defs"].items():
        _as_written(record)
        if name in events:
            record["properties"] = ENVELOPE | record["properties"]
            record["required"] = [*ENVELOPE, "event", *record["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:evengrad:events:{SCHEMA}",
        "title": "evengrad event",
        **made,
    }


def _as_written(record: Json) -> None:
    """Nulls as `events.fields` writes them: left out, but for numbers that are not finite."""
    flags: Json = {}
    for name, field in record["properties"].items():
        if any(kind == {"type": "null"} for kind in field.get("anyOf", ())):
            (kind,) = (kind for kind in field.pop("anyOf") if kind != {"type": "null"})
            field |= kind
            field.pop("default", None)
            if name in record["required"]:
                record["required"].remove(name)
        numbers = field.get("items", field)
        if numbers.get("type") == "number":
            numbers["type"] = ["number", "null"]
            flags[f"{name}_nonfinite"] = {
                "const": True,
                "description": f"{name} is, or holds, a number that is not finite, written null.",
            }
    record["properties"] |= flags
