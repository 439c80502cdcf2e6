"""What a list of many runs, and the journal of a long search, ask of S3; a SeaweedFS of its own.

    python -m tests.bench.many_runs --runs 1000 --trials 100

Runs: ended ones, listed with the index of now, and with that of an older version, which does not
say what status and spec do. Trials: of 20 epochs, of which nothing is trained; a journal in objects
of 32 kB, and one in a single object. Seconds are processor time of this process, which has the
client's part alone; requests and bytes are those of the store.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from job.record.document import seal
from job.record.layout import CHECKPOINT_FILES
from job.record.result import GateOutcome, Result, TaskWorth
from job.record.run_index import About, RunIndex
from job.record.status import Status
from job.runs.rows import read_rows
from job.search import journal
from job.search.objective import Objective
from job.search.space import read_space
from job.search.study import SearchStudy
from job.spec.read import read_spec
from job.store import Store, Stored, open_store
from job.store.base import Bytes
from job.store.s3 import S3Store
from tests.support.s3_server import BUCKET, seaweed
from tests.support.tiny_job import SMALL, write

EPOCHS, ROUNDS = 20, 3
TASKS = ("kind", "level", "down", "pair")


@contextmanager
def asked() -> Iterator[Counter[str]]:
    """What is asked of S3 within the block: requests and bytes."""
    count, get, put = Counter[str](), S3Store.get, S3Store._put

    def counted_get(store: S3Store, key: str) -> Stored:
        found = get(store, key)
        count.update({"reads": 1, "bytes read": len(found.data)})
        return found

    def counted_put(store: S3Store, key: str, data: Bytes, **condition: str) -> str:
        count.update({"writes": 1, "bytes written": len(data)})
        return put(store, key, data, **condition)

    with (
        patch.object(S3Store, "get", counted_get),
        patch.object(S3Store, "_put", counted_put),
    ):
        yield count


def measured(act: Callable[[], Any]) -> str:
    """What an act asks of S3, and its seconds."""
    began, clock = time.process_time(), time.monotonic()
    with asked() as count:
        act()
    seconds = f"{time.process_time() - began:.2f} s of work, {time.monotonic() - clock:.1f} s"
    return f"{seconds}, {', '.join(f'{n:,} {what}' for what, n in sorted(count.items()))}"


def ended_run(about: About | None) -> dict[str, bytes]:
    """The objects of a run that has ended, by name; of checkpoints and events only the names."""
    worth = {name: TaskWorth(beats=True, skill=0.5, error=0.02) for name in TASKS}
    gates = tuple(GateOutcome(gate=f"{name} skill > 0", passed=True) for name in TASKS)
    result = Result(reason="succeeded", exit_code=0, gates=gates, worth=worth)
    index = RunIndex(epoch=1, spec_hash="0" * 64, finished=result, about=about)
    status = Status(phase="succeeded", heartbeat=datetime.now(UTC).isoformat())
    events = [f"events/{1:06}-{n:012}-{n:012}-{n:016}.jsonl" for n in (1, 2)]
    return {
        "latest.json": seal(index.body()),
        "status.json": seal(status.body()),
        "result.json": seal(result.body()),
        "spec.json": json.dumps(SMALL | {"label": "trial 7 of lr"}).encode(),
        **dict.fromkeys(["lease.json", "report.html", *events], b"x"),
        **dict.fromkeys([f"checkpoints/800-1/{file}" for file in CHECKPOINT_FILES], b"x"),
    }


def filled(name: str, runs: int, about: About | None) -> Store:
    """A store of so many ended runs."""
    store, objects = open_store(f"s3://{BUCKET}/{name}"), ended_run(about)
    with ThreadPoolExecutor(8) as threads:
        for n in range(runs):
            threads.map(lambda k, n=n: store.put(f"job/r{n:06}/{k}", objects[k]), objects)
    return store


def listing(runs: int) -> None:
    """List the runs of two stores in turns."""
    about = About(label="trial 7 of lr", ended=datetime.now(UTC))
    stores = {"now": filled("now", runs, about), "older": filled("older", runs, None)}
    work: dict[str, list[float]] = {name: [] for name in stores}
    for _ in range(ROUNDS):
        for name, store in stores.items():
            began = time.process_time()
            print(f"list of {runs} runs, {name}: {measured(partial(read_rows, store))}")
            work[name].append(time.process_time() - began)
    now, older = (statistics.median(work[name]) for name in ("now", "older"))
    print(f"work now / older: {now / older:.2f}")


def searching(folder: Path, trials: int, full: float, study: str) -> None:
    """The trials of a study, without their training."""
    spec, path = write(folder, {"train.epochs": EPOCHS}), folder / "space.json"
    ranges = {"low": 1e-4, "high": 0.1, "log": True}
    path.write_text(json.dumps({"optimizer.lr": ranges, "model.hidden": {"low": 2, "high": 16}}))
    space = read_space(path, json.loads(spec.read_text()), folder)
    objective, drawn = Objective.of("mean", read_spec(spec)), random.Random(0)
    with patch.object(journal, "FULL", full):
        storage = journal.open_journal(f"s3://{BUCKET}/runs", journal.journal_key("small", study))
        made = SearchStudy(storage, study, space, objective, "median")
        for _ in range(trials):
            trial, skills = made.ask(), dict.fromkeys(TASKS, drawn.random())
            if not any(made.is_hopeless(trial, epoch, skills) for epoch in range(1, EPOCHS)):
                made.complete(trial, skills, skills)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made, seaweed(Path(made, "weed")) as server:
        os.environ.update(server.environment())
        for study, full in (("bounded", float(journal.FULL)), ("single", float("inf"))):
            line = measured(partial(searching, Path(made), options.trials, full, study))
            print(f"journal of {options.trials} trials, {study}: {line}", flush=True)
        listing(options.runs)


if __name__ == "__main__":
    main()
