"""Parameters chosen by patterns of their names."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from job.errors import Fault, InputError

Value = TypeVar("Value")
NEAR = 3
"""Names that are proposed for a pattern without a match, at most."""


def matched(
    values: Mapping[str, Value], names: Sequence[str], where: str, what: str = "parameter"
) -> dict[str, Value]:
    """The value of each name, from the first pattern that matches it; others are left out.

    The name of a module matches all that is in it. where: JSON path of the patterns. what: what the
    names are those of. Raises InputError for each pattern that matches no name.
    """
    unused = [p for p in values if not any(fits(name, p) for name in names)]
    if unused:
        raise InputError([_unmatched(pattern, names, where, what) for pattern in unused])
    first = {name: next((p for p in values if fits(name, p)), None) for name in names}
    return {name: values[pattern] for name, pattern in first.items() if pattern is not None}


def fits(name: str, pattern: str) -> bool:
    """True if a pattern matches a parameter's name, or is a module that the parameter is in."""
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")


def _unmatched(pattern: str, names: Sequence[str], where: str, what: str) -> Fault:
    near = difflib.get_close_matches(pattern, names, NEAR, 0) or ["none"]
    rule = f"no {what} has a name that matches"
    return Fault(where, json.dumps(pattern), rule, f"names near it are {', '.join(near)}")
