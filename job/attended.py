"""What a person at the terminal is told of a run beside its events."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from job.events import fields
from job.live import Live
from job.past import past
from job.show import Readable
from job.store import Store, StoreError

if TYPE_CHECKING:
    from job.run import Run


def tell_more(shown: Live | Readable, run: Run) -> None:
    """Give a screen the store, how long it is out of reach, and what came before a resume."""
    shown.store = run.store.url
    if isinstance(shown, Live):
        shown.offline = run.records.offline
        shown.past = lambda step: [
            *past(run.store, run.run, step),
            # All that were read, restored by now; no resume undoes what it restores.
            *({"seq": 0, **fields(gate)} for gate in run.training.verdict.results.values()),
        ]


def command(spec: Path, run_id: str, store: str) -> str:
    """The command that goes on with a run."""
    where = [] if store == "runs" else ["--store", store]
    return shlex.join(["python", "-m", "job", "run", str(spec), "--run-id", run_id, *where])


def has_finished(store: Store, run: str, code: int) -> str:
    """That it has, and where its report is."""
    page, there = f"{run}/report.html", False
    with suppress(StoreError):
        there = any(entry.key == page for entry in store.list(page))
    told = f"run {run.rpartition('/')[2]} has finished; its exit code was {code}"
    return f"{told}; report: {store.url}/{page}" if there else told
