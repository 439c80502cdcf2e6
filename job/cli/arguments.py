"""Arguments that several commands share."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from job.errors import InputError

Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="The job spec, a JSON file.")]


Json = Annotated[bool, typer.Option("--json", help="JSON lines instead of text.")]


Traceback = Annotated[
    bool,
    typer.Option("--traceback", help="Where a file of your own fails, print the whole error too."),
]


Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A run's folder, run id, or s3://bucket/prefix/name/run-id."
    ),
]


StoreOf = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Store of a run that is named by its id: a directory, or s3://bucket/prefix. "
        "[default: EVENGRAD_STORE, else runs]",
    ),
]


Checkpoint = Annotated[
    str,
    typer.Option(
        help="best, last, or a number of steps; best is the last if checkpoint.best_of is not set."
    ),
]


SpecFolder = Annotated[
    Path,
    typer.Option(
        "--spec-folder",
        help="Folder of the spec, from which files of your own and the run's data are named.",
    ),
]


DataFile = Annotated[
    str,
    typer.Option(
        "--data", metavar="FILE", help="As the spec's data.path: a file, a folder, or s3://…."
    ),
]


Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")]


@contextmanager
def causes(shown: bool) -> Iterator[None]:
    """Print the error behind an InputError, if there is one and it is to be shown, to stderr.

    What was warned of before an InputError is dropped unless that is shown: the error's line says
    what is wrong. Without one, warnings are printed at the end.
    """
    seen: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as seen:
            yield
    except InputError as error:
        if not shown:
            seen = []
        elif error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        raise
    finally:
        for each in seen:
            warnings.showwarning(each.message, each.category, each.filename, each.lineno)
