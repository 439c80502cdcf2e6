"""The live screen of a real smoke run as a picture for README: `python -m tests.pictures_live`."""

from __future__ import annotations

import io
import re
import tempfile
from datetime import UTC, datetime

from rich.console import Console

from job.frame import Beside, frame
from job.glyphs import Room
from job.history import read_history
from job.progress import Progress
from job.show import Readable
from job.store import open_store
from tests.command import ROOT, job

PICTURE = ROOT / "tests" / "pictures" / "live.svg"
WIDTH = 100
FONTS = re.compile(r"@font-face \{.*?\}\n", re.DOTALL)
"""That rich would have a browser fetch from elsewhere."""


def picture(store: str, run: str) -> str:
    """The last screen of a stored run, and what is printed below it, as SVG."""
    progress = Progress()
    for event in read_history(open_store(store), run):
        progress.take(event)
    assert progress.finished is not None
    console = Console(
        record=True, file=io.StringIO(), width=WIDTH, force_terminal=True, highlight=False
    )
    beside = Beside(datetime.now(UTC), "runs")
    console.print(*frame(progress, Room(WIDTH, None, True), beside), sep="\n")
    Readable(console).conclude(progress.started, progress.epoch, progress.finished)
    svg = console.export_svg(title="python -m job run docker/smoke.json", unique_id="live")
    return FONTS.sub("", svg)


def main() -> None:
    """Train docker/smoke.json, and draw it."""
    with tempfile.TemporaryDirectory() as folder:
        ended = job(
            ROOT, "run", "docker/smoke.json", "--store", folder, "--run-id", "picture", "--json"
        )
        assert ended.returncode == 0, ended.stderr
        PICTURE.parent.mkdir(exist_ok=True)
        PICTURE.write_text(picture(folder, "smoke/picture"), "utf-8")
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
