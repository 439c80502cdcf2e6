"""What is wrong with what the user wrote, one line a fault: where, found, rule, remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One fault of a user's input."""

    where: str
    """JSON path (`$.tasks[1].outputs`) or file, row and column."""
    found: str
    """What stands there."""
    rule: str
    """What must hold."""
    remedy: str
    """What to do."""

    def __str__(self) -> str:
        line = f"{self.where}: found {self.found}; {self.rule}; {self.remedy}"
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


class InputError(ValueError):
    """The user's input cannot be used; `faults` says why, line by line."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)
