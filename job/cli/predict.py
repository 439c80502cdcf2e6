"""`python -m job predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from job.cli.arguments import Checkpoint, DataFile, Device, Run, SpecFolder, StoreOf
from job.show.format import counted
from job.show.printable import printable

if TYPE_CHECKING:
    from job.predict import Predictor


def predict(
    run: Run,
    data: DataFile,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="New file: .parquet, .csv or .npz; default: stdout."),
    ] = None,
    ids: Annotated[
        str | None,
        typer.Option("--id", help="Column of the data that names its rows; default: their number."),
    ] = None,
    checkpoint: Checkpoint = "best",
    store: StoreOf = None,
    spec_folder: SpecFolder = Path(),
    device: Device = "auto",
) -> None:
    """Predict with a run, in original units: a row for each row of the data, in its order.

    The data needs no targets. Columns, categories, scaling and transforms are those of training. It
    is read piece by piece, so it may be larger than memory. What is unknown or filled in is counted
    on stderr.
    """
    from job.export.new_file import check_free
    from job.predict import load
    from job.predict.write import Csv, check_ending, write, write_file

    if out is not None:
        check_ending(out)
        check_free(out)
    predictor = load(
        run, store=store, checkpoint=checkpoint, spec_folder=spec_folder, device=device
    )
    print_notes(predictor)
    batches = predictor.predict_file(data, ids)
    stdout = sys.stdout.buffer
    count = write_file(batches, out) if out is not None else write(batches, Csv(stdout))
    print_skipped(predictor)
    origin = predictor.origin
    line = f"{counted(count, 'row')} by run {origin.run} at step {origin.kept.step}"
    typer.echo(f"{line}{f', in {out}' if out else ''}", err=True)


def print_notes(predictor: Predictor) -> None:
    """Print what a person should know of the checkpoint on stderr."""
    for note in predictor.notes:
        typer.echo(printable(note), err=True)


def print_skipped(predictor: Predictor) -> None:
    """Print on stderr how many values were unknown or filled in."""
    for what, number in predictor.skipped.items():
        typer.echo(printable(f"{what}: {number:,}"), err=True)
