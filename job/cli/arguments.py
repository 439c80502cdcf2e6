"""Arguments that several commands share."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from job.errors import InputError

Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="The job spec, a JSON file.")]


Json = Annotated[bool, typer.Option("--json", help="JSON lines instead of text.")]


Traceback = Annotated[
    bool,
    typer.Option("--traceback", help="Where a file of your own fails, print the whole error too."),
]


@contextmanager
def causes(shown: bool) -> Iterator[None]:
    """Print the error behind an InputError, if there is one, to stderr."""
    try:
        yield
    except InputError as error:
        if shown and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        raise
