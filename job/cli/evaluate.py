"""`python -m job evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from job.cli.arguments import Checkpoint, DataFile, Device, Json, Run, SpecFolder, StoreOf
from job.cli.predict import print_notes, print_skipped
from job.exit_codes import GATES_FAILED, PASSED


def evaluate(
    run: Run,
    data: DataFile,
    column: Annotated[
        str | None,
        typer.Option("--slice", metavar="COLUMN", help="Also measure each group of its values."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="OUT.html", help="New file for a page: the run's, with this."),
    ] = None,
    checkpoint: Checkpoint = "best",
    store: StoreOf = None,
    spec_folder: SpecFolder = Path(),
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure a run on labelled data: losses, skill with its error, metrics, and its gates.

    Skill is over the strongest prediction that ignores the input, fitted to this very data. Of the
    gates, those on a validation skill or metric are measured here. Exit codes: 0 all of them
    passed; 6 one failed; 1 failed; 2 invalid data or usage.
    """
    from job.evaluate.evaluation import evaluate as measured
    from job.evaluate.evaluation import record
    from job.evaluate.page import evaluation_page
    from job.evaluate.show import print_evaluation
    from job.export.new_file import check_free, new_file
    from job.predict import load
    from job.show.console import Screen

    if report is not None:
        check_free(report)
    predictor = load(
        run, store=store, checkpoint=checkpoint, spec_folder=spec_folder, device=device
    )
    print_notes(predictor)
    found = measured(predictor, data, column)
    print_skipped(predictor)
    if as_json:
        typer.echo(json.dumps(record(found, predictor), allow_nan=False))
    else:
        print_evaluation(Screen(), found, predictor)
    if report is not None:
        with new_file(report) as file:
            file.write(evaluation_page(found, predictor).encode())
    raise typer.Exit(PASSED if found.passed else GATES_FAILED)
