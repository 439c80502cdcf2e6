"""What holds for every data file: it is there, it is what its name says, its faults are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from job.faults import Fault, InputError

TOLD = 10
"""Faults of one rule that are told one by one; the others are counted."""


def check_file(path: Path, shown: str) -> None:
    """Raise InputError unless `path`, written by the user as `shown`, is a file with content."""
    try:
        if path.is_dir():
            _refuse(shown, "a directory", "must be a file")
        with path.open("rb") as file:
            content = file.read(1)
    except FileNotFoundError:
        _refuse(shown, f"no file at {path.absolute()}", "the file must exist")
    except InputError:
        raise
    except (OSError, ValueError) as error:  # a path may be one that no system takes
        why = getattr(error, "strerror", None) or error
        _refuse(shown, f"an error: {why}", "the file must be readable")
    if not content:
        _refuse(shown, "an empty file", "must hold data")


def _refuse(shown: str, found: str, rule: str) -> None:
    raise InputError([Fault(shown, found, rule, "correct data.path or supply the file")])


def not_a(kind: str, shown: str, error: Exception) -> InputError:
    """The error to raise where reading `shown` as `kind` ended in `error`."""
    found = f"an unreadable file ({str(error).splitlines()[0] if str(error) else 'cut off'})"
    return InputError(
        [Fault(shown, found, f"must be a valid {kind}", "write the file anew or rename it")]
    )


def told(where: str, rows: NDArray[np.intp], tell: Callable[[int], Fault]) -> list[Fault]:
    """The faults of the first rows [n] that break a rule, then how many more there are `where`."""
    faults = [tell(int(row)) for row in rows[:TOLD]]
    if len(rows) > TOLD:
        more = f"these and {len(rows) - TOLD} more"
        faults.append(replace(faults[-1], where=where, found=more))
    return faults
