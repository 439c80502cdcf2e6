"""`python -m deploy.report RUN...`: a page to look at, of one run or of several side by side."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from deploy.command import Json, StoreUrl, out, say, serve
from deploy.ends import ERROR, INVALID, NO_ACCESS, NOT_FOUND, OK, Stop

STDOUT = Path("-")
HEAD = 1000
"""Bytes within which a report says that it is one."""


def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Run ids, name/run id, or folders of local runs."),
    ],
    to: Annotated[Path, typer.Option("--output", "-o", help="The HTML file; - is stdout.")] = Path(
        "report.html"
    ),
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Write runs as one HTML file that needs nothing but a browser; several are laid over another.

    A file that is there is replaced only if it is a report.
    """
    from deploy.find import find
    from job.report import report as render
    from job.store import Missing, open_store

    _check(to, as_json)
    found = [find(run, store) for run in dict.fromkeys(runs)]
    try:
        page = render([(open_store(each.store), each.run) for each in found])
    except Missing as missing:
        raise Stop(NOT_FOUND, f"{missing}, or it has told nothing yet") from missing
    if to == STDOUT:
        print(page)
        return
    size = _write(to, page)
    if as_json:
        out({"file": str(to), "bytes": size, "runs": [each.run for each in found]})
    else:
        say(f"{', '.join(each.run for each in found)}: {to}, {size / 1e6:.1f} MB")


def _check(path: Path, as_json: bool) -> None:
    """Raises Stop where something else than a report is there, or nothing can be."""
    from job.report import MARK

    if path == STDOUT:
        if as_json:
            why = "-o -: found --json beside it; stdout has room for one; name a file"
            raise Stop(INVALID, why)
        return
    if not path.parent.is_dir():
        why = f"-o {path}: found no folder {path.parent}; it must exist; make it or name another"
        raise Stop(INVALID, why)
    if path.is_dir():
        raise Stop(INVALID, f"-o {path}: found a folder; it must be a file; name one in it")
    with suppress(FileNotFoundError), path.open("rb") as file:
        if MARK.encode() not in file.read(HEAD):
            why = f"-o {path}: found another file; only a report is replaced; name another"
            raise Stop(INVALID, why)


def _write(path: Path, page: str) -> int:
    """The whole file or none; returns its bytes."""
    partial, data = path.with_name(f".{path.name}.part"), page.encode()
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return len(data)


if __name__ == "__main__":
    serve("report", report, OK, ERROR, INVALID, NO_ACCESS, NOT_FOUND)
