"""Errors in what a user wrote: one line each, with place, finding, rule and remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""A character that moves the cursor, starts an escape sequence, breaks the line or turns the
direction of text."""


@dataclass(frozen=True)
class Fault:
    """One error in a user's input."""

    where: str
    """JSON path (`$.tasks[1].outputs`), or file, row and column."""
    found: str
    """The value at that place, or a description of it."""
    rule: str
    """The rule that the value breaks."""
    remedy: str
    """What the user should do."""

    def __str__(self) -> str:
        line = f"{self.where}: found {self.found}; {self.rule}; {self.remedy}"
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


class InputError(ValueError):
    """The user's input is invalid; `faults` holds every error in it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)
