"""The spec's own types, walked along a pydantic error's location."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from job.spec import GATES, JobSpec, Section
from job.strict_json import Steps


def locate(loc: tuple[str | int, ...]) -> tuple[Steps, Any]:
    """JSON path of a pydantic location, and the type there.

    The location also has the tags of unions in it. The spec's types tell them from keys; the JSON
    alone cannot: a gate of the tag `drop` has a key `drop` too.
    """
    steps: Steps = ()
    kind: Any = JobSpec
    for part in loc:
        members = sections(kind)
        if len(members) > 1:
            kind = next(member for member in members if part in tags(member))
        elif members or get_origin(simple_types(kind)[0]) in (tuple, dict):
            steps, kind = (*steps, part), _inner(simple_types(kind)[0], part)
        else:
            break  # one of several simple types
    return steps, kind


def simple_types(kind: Any) -> list[Any]:
    """The types that a value may have, out of annotations, unions and null."""
    if get_origin(kind) is Annotated:
        return simple_types(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [one for part in get_args(kind) for one in simple_types(part) if one is not NoneType]
    return [kind]


def sections(kind: Any) -> list[type[Section]]:
    """The sections that a value may be."""
    simple = simple_types(kind)
    return [one for one in simple if isinstance(one, type) and issubclass(one, Section)]


def tags(section: type[Section]) -> tuple[str, ...]:
    """What tells a section from others in a union: its kind, or the key that makes a gate."""
    if kind := section.model_fields.get("kind"):
        return get_args(kind.annotation)
    return tuple(key for key in GATES if key in section.model_fields)


def keys(section: type[Section]) -> list[str]:
    """A section's keys as written in JSON."""
    return [field.alias or name for name, field in section.model_fields.items()]


def _inner(kind: Any, step: str | int) -> Any:
    """Type of a section's field or of a container's item; None where there is no such."""
    inner = get_args(kind)
    if get_origin(kind) is dict:
        return inner[1]
    if get_origin(kind) is tuple:
        return inner[0] if Ellipsis in inner else inner[int(step)]
    fields = dict(zip(keys(kind), kind.model_fields.values(), strict=True))
    return fields[step].annotation if step in fields else None
