"""The spec's fields as markdown, from the schema."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

from job.spec.read import schema

Json = dict[str, Any]
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def fields() -> str:
    """Every section of a spec as markdown: its fields with type, bounds, default and meaning."""
    whole = schema()
    made = _section("The whole file", "", whole, whole["$defs"])
    return "\n".join(dict.fromkeys(made))  # a section that several kinds have is written once


def _section(heading: str, path: str, section: Json, known: Json) -> Iterator[str]:
    """A section's heading and table, then those of the sections in it."""
    properties = {
        name: field
        for name, field in section["properties"].items()
        if name != "kind" or "const" not in field  # a constant kind is in the heading
    }
    first = {name: properties[name] for name in ("kind",) if name in properties}
    properties = first | properties
    rows = table(properties, section.get("required", ())) + "\n" if properties else ""
    yield f"### {heading}\n\n{_plain(section['description'])}\n" + ("\n" + rows if rows else "")
    for name, field in properties.items():
        inner = f"{path}.{name}".lstrip(".") + _each(field)
        sections = [known[reference] for reference in _references(field)]
        for one in sections:
            others = [other for other in sections if other is not one]
            yield from _section(f"`{inner}`{_variant(one, others)}", inner, one, known)


def _variant(section: Json, others: list[Json]) -> str:
    """What tells a section from those that may stand in its place; "" if there are none."""
    named = section["properties"].get("kind", {})
    if kinds := [named["const"]] if "const" in named else others and named.get("enum"):
        return " of kind " + " or ".join(f'`"{kind}"`' for kind in kinds)
    taken = {name for other in others for name in other["properties"]}
    own = [name for name in section["properties"] if name not in taken]
    return f" with `{own[0]}`" if others else ""


def table(properties: Json, required: Collection[str] | None = None) -> str:
    """Fields as a markdown table; without a column of defaults where `required` is None."""
    rows = [["field", "type", "default", "meaning"], ["---"] * 4]
    for name, field in properties.items():
        default = "required" if required is None or name in required else _default(field)
        rows.append([f"`{name}`", _type(field), default, _plain(field["description"])])
    if required is None:
        rows = [[name, kind, meaning] for name, kind, _, meaning in rows]
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)


def _references(field: Json) -> Iterator[str]:
    """Names of the sections that may stand in a field."""
    if "$ref" in field:
        yield field["$ref"].rpartition("/")[2]
    items = [field["items"]] if "items" in field else []
    for part in [*_alternatives(field), *items, *_values(field)]:
        yield from _references(part)


def _alternatives(field: Json) -> list[Json]:
    return [*field.get("oneOf", ()), *field.get("anyOf", ())]


def _values(field: Json) -> list[Json]:
    """What an object with names of the user's own holds under each of them."""
    named = [field.get("additionalProperties"), *field.get("patternProperties", {}).values()]
    return [each for each in named if isinstance(each, dict)]


def _each(field: Json) -> str:
    """What stands for each of several sections behind the field's name; "" if it holds one."""
    if "items" in field:
        return "[]"
    objects = [*_values(field), *(each for part in _alternatives(field) for each in _values(part))]
    return ".<name>" if any(any(_references(each)) for each in objects) else ""


def _default(field: Json) -> str:
    value = field["default"]
    if any(_references(field)) and isinstance(value, dict):
        return f'kind `"{value["kind"]}"`' if "kind" in value else "below"
    return f"`{json.dumps(value)}`"


def _type(field: Json) -> str:
    if simple := _simple(field):
        return " or ".join([*map(_type, simple), "section"])
    if any(_references(field)) and not any(map(_simple, field.get("anyOf", ()))):
        kinds = {"[]": "list of sections", ".<name>": "object of sections", "": "section"}
        several = kinds[_each(field)]
        return several + (" or null" if {"type": "null"} in field.get("anyOf", ()) else "")
    if "anyOf" in field:
        return " or ".join(_type(part) for part in field["anyOf"])
    if "enum" in field:
        return ", ".join(f'`"{value}"`' for value in field["enum"])
    if "prefixItems" in field:
        return "[" + ", ".join(_type(part) for part in field["prefixItems"]) + "]"
    if "items" in field:
        return "list of " + _type(field["items"])
    if field.get("additionalProperties") is True:
        return "object of any values"
    if values := _values(field):
        return "object of " + _type(values[0])
    return _scalar(field)


def _simple(field: Json) -> list[Json]:
    """The simple values that may stand in a field in place of a section."""
    parts: list[Json] = field.get("oneOf", [])
    return [part for part in parts if not any(_references(part))]


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
