"""Faults of new data: they name its file, and all that it lacks in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from job.errors import Fault, InputError
from job.spec import Arrays

OF_NAMES = "the data has "
"""How the rule of a fault begins whose name is not in the data."""
MOST = 8
"""Names that a line has at most."""


@contextmanager
def naming_the_file(source: str, data: Arrays) -> Iterator[None]:
    """In it, faults at JSON paths of the spec, which the user did not write, name the file."""
    try:
        yield
    except InputError as error:
        lacking = [fault for fault in error.faults if fault.rule.startswith(OF_NAMES)]
        others = [_of_file(fault, source, data) for fault in error.faults if fault not in lacking]
        raise InputError([*_lacking(lacking, source), *others]) from None


def _lacking(faults: Sequence[Fault], source: str) -> list[Fault]:
    """One fault of all names that the data lacks."""
    if not faults:
        return []
    named = [fault.found for fault in faults]
    more = f" and {len(named) - MOST} more" if len(named) > MOST else ""
    remedies = dict.fromkeys(f.remedy for f in faults if "did you mean" in f.remedy)
    remedy = " ".join(remedies) or "supply what training had"
    return [Fault(source, f"no {', '.join(named[:MOST])}{more}", faults[0].rule, remedy)]


def _of_file(fault: Fault, source: str, data: Arrays) -> Fault:
    path = re.match(r"\$\.data(\.inputs\.(\w+))?(\.\w+)*", fault.where)
    fault = replace(fault, remedy=fault.remedy.replace("data.path", "the path"))
    if path is None:
        return fault
    name = f", input {path[2]}" if path[2] and data.inputs is not None else ""
    return replace(fault, where=f"{source}{name}")
