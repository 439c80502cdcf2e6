"""Differences between specs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from job.errors import Fault


class Difference(NamedTuple):
    """One value that is not the same in all of the compared specs."""

    where: str
    """Path, e.g. `$.train.epochs`; sections in a list by name: `$.tasks[level].outputs`."""
    values: tuple[Any, ...]
    """The value in each spec; None if the spec has none there."""


def differences(specs: Sequence[Any]) -> list[Difference]:
    """The values that differ between specs, which are given as JSON values."""
    leaves = [dict(_leaves(spec, "$")) for spec in specs]
    places = dict.fromkeys(where for spec in leaves for where in spec)
    rows = [Difference(where, tuple(spec.get(where) for spec in leaves)) for where in places]
    return [row for row in rows if any(value != row.values[0] for value in row.values)]


def change_faults(before: Any, now: Any, ignored: Iterable[str] = ()) -> list[Fault]:
    """One fault for each value of a spec that is not what the run began with.

    ignored: keys that may differ.
    """
    before, now = ({k: v for k, v in each.items() if k not in ignored} for each in (before, now))
    return [
        Fault(
            where,
            json.dumps(new),
            f"the run began with {json.dumps(old)}",
            f"{_way_back(where, old)}, or give the run another id",
        )
        for where, (old, new) in differences([before, now])
    ]


def _way_back(where: str, old: Any) -> str:
    """How a value becomes again what it was; some are set by a flag of the command too."""
    if where == "$.extends":
        return f"add --extend {shlex.quote(str(old))}" if old else "leave out --extend"
    if where != "$.control":
        return "set it back"
    return "add --control" if old else "leave out --control, and control in the spec"


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Every number, string and plain list of a JSON value, with its path; names in their order."""
    if isinstance(value, dict):
        if where == "$.optimizer.rates":  # the first pattern that matches counts
            yield where, list(value)
        inner = {f"{where}.{key}": each for key, each in value.items()}
    elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        names = [each.get("name", n) for n, each in enumerate(value)]
        if "name" in value[0]:
            yield where, names
        unnamed = [{k: v for k, v in each.items() if k != "name"} for each in value]
        inner = {f"{where}[{name}]": each for name, each in zip(names, unnamed, strict=True)}
    else:
        yield where, value
        return
    for place, each in inner.items():
        yield from _leaves(each, place)
