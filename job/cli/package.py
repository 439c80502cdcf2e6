"""`python -m job package`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from job.cli.arguments import Checkpoint, Run, SpecFolder, StoreOf


def package(
    run: Run,
    out: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="New folder.")],
    checkpoint: Checkpoint = "best",
    store: StoreOf = None,
    spec_folder: SpecFolder = Path(),
) -> None:
    """x."""
