"""`python -m job package`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from job.cli.arguments import Checkpoint, Run, SpecFolder, StoreOf
from job.cli.predict import print_notes
from job.exit_codes import FAILED
from job.show.printable import printable


def package(
    run: Run,
    out: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="New folder.")],
    checkpoint: Checkpoint = "best",
    store: StoreOf = None,
    spec_folder: SpecFolder = Path(),
) -> None:
    """Write a run's network for other programs: torch.export and ONNX, with a model card.

    Both take batches of any size, and are checked against the run's own predictions on its
    validation data, which must lie where the spec names it. ONNX needs the extra `package`. Exit
    codes: 0 a format was written; 1 none could be; 2 invalid data or usage.
    """
    from job.package.package import package as written
    from job.package.served import in_words
    from job.predict import load

    predictor = load(run, store=store, checkpoint=checkpoint, spec_folder=spec_folder, device="cpu")
    print_notes(predictor)
    formats = written(predictor, out)
    for each in formats:
        how = f"its predictions {in_words(each.difference)}" if each.difference else each.why
        what = f"{out / each.file}" if each.is_written else f"no {each.file}"
        typer.echo(printable(f"{what}: {how}"))
    if not any(each.is_written for each in formats):
        raise typer.Exit(FAILED)
