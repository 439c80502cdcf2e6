"""`python -m deploy.report RUN...`: a page about one run, or about several side by side."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from deploy.app import run_command
from deploy.exits import INVALID, NO_ACCESS, NOT_FOUND, CommandError
from deploy.options import Json, StoreUrl
from deploy.output import log_line, partial_file, print_json
from job.show.format import size as in_bytes

STDOUT = Path("-")
HEAD = 1000
"""Bytes within which a report has the mark of one."""


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN...", help="Run ids, name/run id, or folders of local runs."),
    ] = None,
    to: Annotated[Path, typer.Option("--output", "-o", help="The HTML file; - is stdout.")] = Path(
        "report.html"
    ),
    every: Annotated[
        bool, typer.Option("--all", help="A table of all runs of the store, instead of RUN...")
    ] = False,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Write runs as one HTML file that needs only a browser; several runs share each chart.

    An existing file is replaced only if it is a report.
    """
    _check(to, as_json)
    if every == bool(runs):
        found = "both" if every else "neither"
        why = f"RUN..., --all: found {found}; a page is of runs or of all; name runs, or give --all"
        raise CommandError(INVALID, why)
    page, names = _all(store) if every else _some(runs or [], store)
    if to == STDOUT:
        print(page)
        return
    size = _write(to, page)
    if as_json:
        print_json({"file": str(to), "bytes": size, "runs": names})
    else:
        what = f"{len(names)} runs" if every else ", ".join(names)
        log_line(f"{what}: {to}, {in_bytes(size)}")


def _some(runs: list[str], store: str | None) -> tuple[str, list[str]]:
    """The page of some runs, and the runs; raises CommandError, StoreError, InputError."""
    from deploy.runs.locate import locate
    from job.report.page import report as render
    from job.store import Missing, open_store

    refs = [locate(run, store) for run in dict.fromkeys(runs)]
    try:
        page = render([(open_store(ref.store), ref.run) for ref in refs])
    except Missing as missing:
        raise CommandError(NOT_FOUND, f"{missing}, or it has no event yet") from missing
    return page, [ref.run for ref in refs]


def _all(store: str | None) -> tuple[str, list[str]]:
    """The page of all runs of a store, and the runs; raises as `_some`."""
    from job.report.page import list_page
    from job.runs.find import default_stores
    from job.runs.rows import read_rows
    from job.store import open_store

    url = store or next(iter(default_stores()), None)
    if url is None:
        why = "--all: found no store; it must be named; give --store or EVENGRAD_STORE"
        raise CommandError(INVALID, why)
    opened = open_store(url)
    rows = read_rows(opened)
    if not rows:
        raise CommandError(NOT_FOUND, f"{opened.url} holds no run")
    return list_page(opened, rows), [row.run for row in rows]


def _check(path: Path, as_json: bool) -> None:
    """Raises CommandError if the file is there and no report, or cannot be written."""
    from job.report.page import MARK

    if path == STDOUT:
        if as_json:
            why = "-o -: found --json beside it; stdout has room for one; name a file"
            raise CommandError(INVALID, why)
        return
    if not path.parent.is_dir():
        why = f"-o {path}: found no folder {path.parent}; it must exist; make it or name another"
        raise CommandError(INVALID, why)
    if path.is_dir():
        raise CommandError(INVALID, f"-o {path}: found a folder; it must be a file; name one in it")
    with suppress(FileNotFoundError), path.open("rb") as file:
        if MARK.encode() not in file.read(HEAD):
            why = f"-o {path}: found another file; only a report is replaced; name another"
            raise CommandError(INVALID, why)


def _write(path: Path, page: str) -> int:
    """Write the whole file or none; returns its size in bytes."""
    data = page.encode()
    with partial_file(path) as file:
        file.write(data)
        file.flush()
        Path(file.name).replace(path)
    return len(data)


if __name__ == "__main__":
    run_command("report", report, NO_ACCESS, NOT_FOUND)
