"""`python -m job list`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from job.cli.arguments import Json

if TYPE_CHECKING:
    from job.runs.rows import Row


def list_runs(
    store: Annotated[
        str, typer.Option(help="Store of the runs: a directory, or s3://bucket/prefix.")
    ] = "runs",
    as_json: Json = False,
) -> None:
    """List the runs of a store: verdict, skill, age, size and label, the newest first."""
    from job.runs.rows import read_rows
    from job.runs.table import print_rows
    from job.store import open_store

    opened = open_store(store)
    rows = read_rows(opened)
    if as_json:
        _print_json(rows)
    elif rows:
        print_rows(rows)
    else:
        typer.echo(f"{opened.url} holds no run", err=True)


def _print_json(rows: Sequence[Row]) -> None:
    for row in rows:
        typer.echo(row.model_dump_json())
