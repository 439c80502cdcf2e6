"""The spec's fields as markdown, from the schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from job.read_spec import schema

Json = dict[str, Any]
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def fields() -> str:
    """Every section of a spec as markdown: its field, type with bounds, default, meaning."""
    whole = schema()
    return "\n".join(_section("", whole, whole["$defs"]))


def _section(path: str, section: Json, known: Json) -> Iterator[str]:
    """A section's heading and table, then those of the sections in it."""
    properties = dict(section["properties"])
    kind = properties.pop("kind", {}).get("const")
    heading = f"`{path}`" if path else "The whole"
    if kind:
        heading += f' of kind `"{kind}"`'
    yield f"**{heading}**: {_plain(section['description'])}\n"
    if properties:
        yield "| field | type | default | meaning |\n|---|---|---|---|"
        required = section.get("required", ())
        for name, field in properties.items():
            default = "required" if name in required else _default(field)
            cells = [f"`{name}`", _type(field), default, _plain(field["description"])]
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        yield ""
    for name, field in properties.items():
        inner = f"{path}.{name}".lstrip(".") + ("[]" if "items" in field else "")
        for reference in _references(field):
            yield from _section(inner, known[reference], known)


def _references(field: Json) -> Iterator[str]:
    """Names of the sections that may stand in a field."""
    if "$ref" in field:
        yield field["$ref"].rpartition("/")[2]
    items = [field["items"]] if "items" in field else []
    for part in [*field.get("oneOf", ()), *field.get("anyOf", ()), *items]:
        yield from _references(part)


def _default(field: Json) -> str:
    value = field["default"]
    if any(_references(field)) and isinstance(value, dict):
        return f'kind `"{value["kind"]}"`' if "kind" in value else "below"
    return f"`{json.dumps(value)}`"


def _type(field: Json) -> str:
    if any(_references(field)):
        several = "list of sections" if "items" in field else "section"
        return several + (" or null" if {"type": "null"} in field.get("anyOf", ()) else "")
    if "anyOf" in field:
        return " or ".join(_type(part) for part in field["anyOf"])
    if "enum" in field:
        return ", ".join(f'`"{value}"`' for value in field["enum"])
    if "prefixItems" in field:
        return "[" + ", ".join(_type(part) for part in field["prefixItems"]) + "]"
    if "items" in field:
        return "list of " + _type(field["items"])
    if "additionalProperties" in field:
        return "object of " + _type(field["additionalProperties"])
    return _scalar(field)


def _scalar(field: Json) -> str:
    bounds = [f"{sign} {_number(field[key])}" for key, sign in BOUNDS.items() if key in field]
    name = str(field["type"])
    if "pattern" in field:
        bounds.append(f"of the form `{field['pattern']}`")
    elif field.get("minLength"):
        name += ", not empty"
    return " ".join([name, ", ".join(bounds)]).strip()


def _number(value: float) -> str:
    return "2³¹" if value == 2**31 else f"{value:g}"


def _plain(text: str) -> str:
    return " ".join(text.split())
