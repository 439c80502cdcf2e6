"""What reading the record of a long run costs: the report, and the last lines.

    python -m tests.bench.report [--steps 200000] [--tasks 32] [--repeats 5]

A made-up run of so many steps is stored in a directory: about 5.5 kB a step, so the default needs
1.1 GB of disk for a while. The job renders the report at its end, `deploy.report` at any time;
opening it ends when a headless chromium has drawn the page and answers; `logs` is a process of its
own. Medians.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from job.report.page import report
from job.store.directory import DirectoryStore
from tests.support.browser import browser
from tests.support.long_run import long_run, spec_of, store_events

RUN = "long/r"


def seconds(act: Callable[[], object], repeats: int) -> float:
    """Wall-clock seconds of an act, the median."""
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        act()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def opened(file: Path, repeats: int) -> float:
    """Seconds until a browser has drawn the page and answers a click."""
    with browser() as chromium:

        def look() -> None:
            page = chromium.new_page(viewport={"width": 1400, "height": 900})
            page.goto(file.as_uri())
            page.wait_for_selector("html[data-ready]")
            page.click("#scale [data-value=log]")
            page.close()

        look()  # the browser warms up
        return seconds(look, repeats)


def logs(store: str) -> None:
    command = [sys.executable, "-m", "deploy.logs", RUN, "--store", store, "--tail", "20", "--json"]
    done = subprocess.run(command, check=True, capture_output=True)
    assert len(done.stdout.splitlines()) == 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    title = f"a run of {options.steps:,} steps of {options.tasks} tasks"
    table = Table(title=title, title_justify="left")
    for column in ("what", "measured", "limit"):
        table.add_column(column, justify="left" if column == "what" else "right")
    with tempfile.TemporaryDirectory() as folder:
        store = DirectoryStore(Path(folder) / "store")
        spec = spec_of(options.steps, options.tasks)
        store_events(store, RUN, long_run(options.steps, options.tasks), spec)
        stored = sum(entry.size for entry in store.list(f"{RUN}/events/"))
        file = Path(folder) / "report.html"
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rendering = seconds(
            lambda: file.write_text(report([(store, RUN)])), min(3, options.repeats)
        )
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        tail = seconds(lambda: logs(store.url), options.repeats)
        rows = [
            ("its events in the store", f"{stored / 1e6:,.0f} MB", ""),
            ("rendering its report", f"{rendering:.1f} s", ""),
            ("memory that rendering adds", f"{max(0, grown) / 1e3:.0f} MB", ""),
            ("the report", f"{file.stat().st_size / 1e6:.1f} MB", "10 MB"),
            (
                "until a browser shows it and answers",
                f"{opened(file, options.repeats):.2f} s",
                "3 s",
            ),
            ("`logs --tail 20`, a whole process", f"{tail:.2f} s", "1 s"),
        ]
        for row in rows:
            table.add_row(*row)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
