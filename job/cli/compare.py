"""`python -m job compare`."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Annotated

import typer

from job.cli.arguments import Json
from job.exit_codes import FAILED, INTERRUPTED
from job.spec.read import read_spec


def compare(
    specs: Annotated[list[Path], typer.Argument(metavar="SPEC...", help="Specs to compare.")],
    balance: Annotated[
        str,
        typer.Option(help="Balancers to try on each spec, by comma: kinds, or torchjd:NAME."),
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per row, from the spec's on.")] = 1,
    workers: Annotated[
        int, typer.Option(min=1, help="Runs at the same time, each on one thread.")
    ] = 1,
    control: Annotated[
        bool,
        typer.Option("--control", help="Also train each row with its targets permuted."),
    ] = False,
    store: Annotated[
        str | None,
        typer.Option(help="Keep the runs in this store: a directory, or s3://bucket/prefix."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train specs, or each spec under several balancers, and print one table.

    Means ± standard deviations over the seeds, which vary initialisation, order and dropout, and
    leave the split as it is. drop: share by which the loss fell since epoch 1. skill: 1 − loss /
    the strongest trivial prediction's. pull z, pull head: the task's mean weighted gradient norm
    over the last epoch, at the shared representation and at its head's output weights, over the
    geometric mean of all tasks': a task at 0.1 pulls a hundredth of one at 10. From 3 seeds on, the
    differences to the first row that are more than chance. Exit code 1 if a run failed.
    """
    from job.compare.differences import paired_differences
    from job.compare.runs import compare as run_all
    from job.compare.runs import variants
    from job.compare.summary import print_table, summary

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the workers, as Ctrl-C does
    rows = variants({path: read_spec(path) for path in specs}, balance, control)
    try:
        results = run_all(rows, seeds, workers, lambda text: typer.echo(text, err=True), store)
    except KeyboardInterrupt:
        kept = "; the same command goes on" if store else "; without --store nothing is kept"
        typer.echo(f"interrupted{kept}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    differences = paired_differences(results)
    if as_json:
        for row in summary(results):
            mine = [each._asdict() for each in differences if each.row == row["row"]]
            typer.echo(json.dumps({**row, "differences": mine}, allow_nan=False))
    else:
        print_table(summary(results), differences, store or "")
    if any(result.error for result in results):
        raise typer.Exit(FAILED)
