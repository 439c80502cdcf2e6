"""The picture of the live screen in docs/: the last screen of a real smoke run. `make pictures`."""

from __future__ import annotations

import io
import re
import tempfile
from datetime import UTC, datetime

from rich.console import Console

from job.record.history import read_history
from job.record.layout import new_run_id
from job.show.frame import ScreenContext, frame
from job.show.glyphs import Viewport
from job.show.lines import Readable
from job.show.progress import Progress
from job.store import open_store
from tests.support.command import ROOT, job

PICTURE = ROOT / "docs" / "pictures" / "live.svg"
WIDTH = 100
FONTS = re.compile(r"@font-face \{.*?\}\n", re.DOTALL)
"""Fonts that a browser would load from elsewhere."""


def last_screen(store: str, run: str) -> Console:
    """A console that has recorded the last screen of a run and what is printed below it."""
    progress = Progress()
    for event in read_history(open_store(store), run):
        progress.take(event)
    assert progress.finished is not None
    console = Console(
        record=True, file=io.StringIO(), width=WIDTH, force_terminal=True, highlight=False
    )
    context = ScreenContext(datetime.now(UTC), "runs")
    console.print(*frame(progress, Viewport(WIDTH, None, True), context), sep="\n")
    readable = Readable(console)
    readable.conclude(progress.started, progress.epoch, progress.finished)
    readable.print_text(f"report: runs/{run}/report.html")
    return console


def main() -> None:
    """Train docker/smoke.json, draw it, and print it."""
    run = new_run_id()
    with tempfile.TemporaryDirectory() as folder:
        options = ("--store", folder, "--run-id", run, "--json")
        ended = job(ROOT, "run", "docker/smoke.json", *options)
        assert ended.returncode == 0, ended.stderr
        console = last_screen(folder, f"smoke/{run}")
    print("\n".join(line.rstrip() for line in console.export_text(clear=False).splitlines()))
    svg = console.export_svg(title="python -m job run docker/smoke.json", unique_id="live")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(FONTS.sub("", svg), "utf-8")
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
