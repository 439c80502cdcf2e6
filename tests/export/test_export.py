"""Exported files hold the numbers of a run's history, in forms that other tools read."""

from __future__ import annotations

import csv
import errno
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from job.errors import InputError
from job.export import new_file as new_files
from job.export.__main__ import main, tag, write
from job.export.metrics import Metric
from job.export.new_file import new_file
from job.export.table import SCHEMA
from job.record.history import read_history, stream_history
from job.store import Missing, Store, open_store
from tests.support.command import ROOT, environment
from tests.support.fake_history import EPOCHS, STEPS, Recorded

RUN = "jade/r1"
LAST_LIMIT = 600.0
"""Seconds after which a test fails that waits for a process: no machine needs them."""
TASKS = ("type", "countdown")
Row = dict[str, Any]


def recorded() -> Recorded:
    """A run with a resume, an alarm, gates, and numbers that are not finite."""
    run = Recorded(*TASKS)
    run.begin()
    run.train(3 * STEPS)
    run.save()
    run.train(STEPS, weight=math.inf, drop=math.nan)
    run.gate(passed=True)
    run.alarm("countdown")
    run.resume(3 * STEPS)
    run.train((EPOCHS - 3) * STEPS)
    run.gate(passed=False, measured=math.nan)
    run.measure_end()
    run.finish()
    for line in run.lines:
        if line["event"] == "run.started":
            line["tasks"]["countdown"] |= {"unit": "bars", "loss_unit": "bars²"}
    return run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the run."""
    store = open_store(tmp_path_factory.mktemp("store"))
    recorded().store(store, RUN)
    return store


@pytest.fixture(scope="module")
def exported(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with all files of the run."""
    to = tmp_path_factory.mktemp("exported")
    paths = write(store, RUN, to, tensorboard=True, parquet=True, csv=True)
    assert {path.parent for path in paths} == {to / RUN}
    return to / RUN


@pytest.fixture(scope="module")
def rows(exported: Path) -> list[Row]:
    """The rows of the Parquet file."""
    table = pyarrow.parquet.read_table(exported / "metrics.parquet")
    assert table.schema.equals(SCHEMA)
    rows: list[Row] = table.to_pylist()
    return rows


def numbers(events: list[Row]) -> Iterator[tuple[Any, ...]]:
    """The numbers of a history, without the code under test: (seq, task, other, metric, value)."""
    skipped = {"ts", "schema", "run_id", "seq", "event", "step", "epoch"}
    for event in events:
        if event["event"] == "alarm":
            yield event["seq"], event.get("task"), None, "alarm", 1.0
            continue
        if event["event"] == "predictions":
            name = {"validation": "val_labels", "test": "test_labels"}[event["split"]]
            yield event["seq"], event["task"], None, name, event["labels"]
            continue
        if event["event"] == "test":
            yield event["seq"], None, None, "test_samples", event["samples"]
            for task, record in event["tasks"].items():
                for name, value in {**record, **record["metrics"]}.items():
                    if name != "metrics" and not name.endswith("_nonfinite"):
                        known = math.nan if value is None else value
                        yield event["seq"], task, None, f"test_{name}", known
            continue
        parts = [(None, {k: v for k, v in event.items() if k not in skipped})]
        parts += list(event.get("tasks", {}).items())
        for task, record in parts:
            for name, value in record.items():
                if isinstance(value, int | float) and not name.endswith("_nonfinite"):
                    yield event["seq"], task, None, name, float(value)
                elif value is None:
                    yield event["seq"], task, None, name, math.nan
            for other, value in record.get("cosines", {}).items():
                yield event["seq"], task, other, "cosines", value
            for field, split in (("metrics", "train"), ("val_metrics", "val")):
                for name, value in record.get(field, {}).items():
                    known = math.nan if value is None else value
                    yield event["seq"], task, None, f"{split}_{name}", known


def key(row: Row) -> tuple[Any, ...]:
    value = "nan" if math.isnan(row["value"]) else row["value"]
    return row["seq"], row["task"], row["other"], row["metric"], value


class TestTables:
    def test_numbers_are_those_of_the_history(self, store: Store, rows: list[Row]) -> None:
        """Every number of every event that counts is there once, and no other."""
        wanted = [
            (seq, task, other, name, "nan" if math.isnan(value) else value)
            for seq, task, other, name, value in numbers(read_history(store, RUN))
        ]
        assert sorted(map(key, rows), key=repr) == sorted(wanted, key=repr)
        assert len(wanted) > 3000

    def test_columns_describe_the_number(self, rows: list[Row]) -> None:
        """Attempt, step, epoch, split, unit; a gate has its text, an alarm its kind."""

        def only(**wanted: object) -> Row:
            (row,) = [r for r in rows if all(r[name] == value for name, value in wanted.items())]
            return row

        row = only(event="epoch", epoch=5, task="type", metric="val_loss_original")
        assert (row["run"], row["attempt"], row["step"], row["split"]) == (
            *(RUN, 2, 5 * STEPS, "validation"),
        )
        assert only(event="epoch", epoch=2, task="type", metric="skill")["split"] == "train"
        assert only(event="epoch", epoch=2, task="type", metric="skill")["attempt"] == 1
        cosine = only(event="epoch", epoch=5, task="type", metric="cosines")
        assert (cosine["other"], cosine["value"]) == ("countdown", 0.25)
        assert only(event="step", step=7, metric="step_ms")["unit"] == "ms"
        of_loss = only(event="epoch", epoch=5, task="countdown", metric="val_loss_original")
        assert (of_loss["unit"], row["unit"]) == ("bars²", None)
        error = only(event="epoch", epoch=5, task="countdown", metric="val_mae")
        assert (error["value"], error["unit"], error["split"]) == (2.5, "bars", "validation")
        share = only(event="epoch", epoch=5, task="countdown", metric="train_r2")
        assert (share["value"], share["unit"], share["split"]) == (0.75, None, "train")
        error = only(event="test", task="countdown", metric="test_mae")
        assert (error["value"], error["unit"], error["split"]) == (3.5, "bars", "test")
        loss = only(event="test", task="countdown", metric="test_trivial_loss_original")
        assert (loss["value"], loss["unit"], loss["epoch"]) == (3.0, "bars²", EPOCHS)
        count = only(event="predictions", task="type", metric="val_labels")
        assert (count["value"], count["split"]) == (7.0, "validation")
        assert only(event="alarm")["about"] == "task_starving"
        assert only(event="gate", metric="passed")["about"] == "a drops > 20% by epoch 5"
        assert only(event="run.finished", metric="exit_code")["value"] == 6.0
        assert {row["superseded"] for row in rows} == {False}

    def test_csv_holds_the_same(self, exported: Path, rows: list[Row]) -> None:
        """The rows are the same; nan differs from nothing."""
        with open(exported / "metrics.csv", newline="") as file:
            read = list(csv.DictReader(file))
        assert list(read[0]) == SCHEMA.names
        typed = [
            {name: r[name] or None for name in ("task", "other", "metric")}
            | {"seq": int(r["seq"]), "value": float(r["value"])}
            for r in read
        ]
        assert list(map(key, typed)) == list(map(key, rows))
        assert any(r["value"] == "nan" for r in read)
        assert not any(r["value"] == "" for r in read)

    def test_superseded_numbers_can_be_kept(self, store: Store, tmp_path: Path) -> None:
        """With --superseded the numbers of all events are there; superseded ones are marked."""
        write(store, RUN, tmp_path, parquet=True, superseded=True)
        table = pyarrow.parquet.read_table(tmp_path / RUN / "metrics.parquet").to_pylist()
        everything = list(numbers(read_history(store, RUN, superseded=True)))
        assert len(table) == len(everything)
        marked = {row["seq"] for row in table if row["superseded"]}
        counted = {event["seq"] for event in read_history(store, RUN)}
        gone = [
            e for e in recorded().lines if e["seq"] not in counted and e["event"] != "superseded"
        ]
        assert marked == {event["seq"] for event in gone}

    @pytest.mark.slow
    def test_a_run_streams(self, tmp_path: Path) -> None:
        """Ten times the steps need about the same memory: no part holds a whole run."""
        peaks = []
        for steps in (500, 5000):
            run, tasks = Recorded(*(f"task_{k}" for k in range(32)), epochs=steps), 32
            first = run.begin()
            line = run.train(1)
            folder = tmp_path / str(steps)
            _long(open_store(folder), first, line, steps)
            code = (
                "import sys; from pathlib import Path\n"
                "from job.export.__main__ import write; from job.store import open_store\n"
                "to = Path(sys.argv[1])\n"
                "write(open_store(to), 'jade/r1', to / 'to', True, True)\n"
                "lines = Path('/proc/self/status').read_text().splitlines()\n"
                "print(next(line.split()[1] for line in lines if line.startswith('VmHWM')))"
            )
            ended = subprocess.run(
                [sys.executable, "-c", code, str(folder)],
                env=environment(), capture_output=True, text=True, check=True, timeout=LAST_LIMIT,
            )  # fmt: skip
            peaks.append(int(ended.stdout))
            table = pyarrow.parquet.read_metadata(folder / "to" / RUN / "metrics.parquet")
            assert table.num_rows > steps * tasks * 8
        assert peaks[1] < 500_000  # kB
        assert peaks[1] < 1.5 * peaks[0]


def _long(store: Store, first: Row, line: Row, steps: int) -> None:
    """Store a run of so many steps, which differ only in their numbers."""
    run = Recorded(*first["tasks"])
    run.lines = [first]
    run.lines += [line | {"seq": n + 1, "step": n} for n in range(1, steps + 1)]
    run.store(store, RUN)


class TestTensorBoard:
    @pytest.fixture(scope="class")
    @staticmethod
    def board(exported: Path) -> EventAccumulator:
        """The files as TensorBoard itself reads them."""
        accumulator = EventAccumulator(str(exported), size_guidance={"scalars": 0})
        accumulator.Reload()
        return accumulator

    def test_numbers_are_those_of_the_history(self, board: Any, store: Store) -> None:
        """Every scalar is at its step, in single precision; what is not finite is NaN."""
        events = read_history(store, RUN)
        for task in TASKS:
            for event, metric in (("step", "weight"), ("epoch", "drop"), ("epoch", "val_loss")):
                of = [e for e in events if e["event"] == event]
                found = board.Scalars(tag(event, Metric(metric, task)))
                assert [s.step for s in found] == [e["step"] for e in of]
                wanted = np.array([e["tasks"][task][metric] for e in of], np.float32)
                np.testing.assert_array_equal(np.array([s.value for s in found]), wanted)
        shown = board.Scalars("epoch.cosines/type/countdown")
        assert [s.value for s in shown] == [0.25] * EPOCHS
        assert math.isnan(board.Scalars("gate.measured/a drops > 20% by epoch 5")[-1].value)
        assert [s.step for s in board.Scalars("alarm.alarm/countdown/task_starving")] == [4 * STEPS]

    def test_tags_are_grouped_by_metric(self, board: Any) -> None:
        """A group is what is before the slash: one metric of all tasks."""
        tags = board.Tags()["scalars"]
        assert {"step/lr", "step.loss/type", "step.loss/countdown"} <= set(tags)
        assert {t.split("/")[0] for t in tags if t.startswith("step.")} >= {"step.grad_share"}

    def test_numbers_too_large_for_it(self, tmp_path: Path) -> None:
        """A number beyond single precision is infinite there, and exact in the tables."""
        run = Recorded("a")
        run.begin()
        run.train(1, weight=-1e300)
        store = open_store(tmp_path / "store")
        run.store(store, RUN)
        write(store, RUN, tmp_path, tensorboard=True, parquet=True)
        accumulator = EventAccumulator(str(tmp_path / RUN))
        accumulator.Reload()
        assert accumulator.Scalars("step.weight/a")[0].value == -math.inf
        table = pyarrow.parquet.read_table(tmp_path / RUN / "metrics.parquet").to_pylist()
        assert -1e300 in {row["value"] for row in table}


class TestCommand:
    def run(self, *arguments: str | Path) -> int:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        assert isinstance(end.value.code, int)
        return end.value.code

    def test_by_run_id_alone(
        self, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The run's name comes from the store; the files are printed, one a line."""
        assert self.run("r1", "--store", store.url, "--to", tmp_path, "--csv") == 0
        assert capsys.readouterr().out == f"{tmp_path / RUN / 'metrics.csv'}\n"

    def test_by_its_folder(self, store: Store, tmp_path: Path) -> None:
        """The folder of a run says which store it is in, as for the deploy commands."""
        assert self.run(Path(store.url) / RUN, "--to", tmp_path, "--csv") == 0
        assert (tmp_path / RUN / "metrics.csv").is_file()

    def test_overwrites_nothing(
        self, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Exit 2, one line names the file, which stays as it is; no other file is left."""
        mine = tmp_path / RUN / "metrics.csv"
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")
        options = ("--store", store.url, "--to", tmp_path, "--parquet", "--csv", "--tensorboard")
        assert self.run(RUN, *options) == 2
        assert capsys.readouterr().err.startswith(f"{mine}: found a file; nothing is overwritten")
        assert [path.name for path in mine.parent.iterdir()] == ["metrics.csv"]
        assert mine.read_text() == "mine"

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            ((RUN, "--to", "x"), 2, "choose at least one of --tensorboard, --parquet and --csv"),
            ((RUN, "--csv"), 2, "Missing option '--to'"),
            (("nobody", "--to", "x", "--csv"), 1, "holds no run nobody"),
            (("no/body", "--to", "x", "--csv"), 1, "holds no run no/body"),
        ],
    )
    def test_wrong_usage(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        arguments: tuple[str, ...],
        code: int,
        message: str,
    ) -> None:
        """One line says what is wrong, and no file is written."""
        monkeypatch.chdir(tmp_path)
        assert self.run(*arguments) == code
        assert message in capsys.readouterr().err.splitlines()[-1]
        assert not list(tmp_path.rglob("*.csv"))

    def test_help_has_columns_and_codes(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Every column of the table is named, and the page that explains them."""
        assert self.run("--help") == 0
        text = capsys.readouterr().out
        for name in SCHEMA.names:
            assert name in text
        assert "Exit codes: 0 written;" in text
        (page,) = re.findall(r"docs/[a-z-]+\.md", text)
        assert all(f"`{name}`" in (ROOT / page).read_text() for name in SCHEMA.names)


def test_a_file_that_comes_at_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays, even if nobody has seen it come."""
    path = tmp_path / "metrics.csv"
    end = ExitStack()
    end.enter_context(new_file(path)).write(b"ours")
    path.write_text("mine")
    monkeypatch.setattr(new_files, "check_free", lambda path: None)
    with pytest.raises(InputError, match="nothing is overwritten"):
        end.close()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("metrics.csv", "mine")]


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file is written there too, and nothing is overwritten."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "metrics.csv"
    with new_file(path) as file:
        file.write(b"ours")
    with pytest.raises(InputError), new_file(tmp_path / "other") as file:
        (tmp_path / "other").write_text("mine")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "metrics.csv": "ours", "other": "mine"
    }  # fmt: skip


def test_a_damaged_run_leaves_no_file(tmp_path: Path) -> None:
    """A missing segment is an error, and unfinished files are removed."""
    store = open_store(tmp_path / "store")
    recorded().store(store, RUN)
    segments = [entry.key for entry in store.list(f"{RUN}/events/")]
    store.delete(segments[len(segments) // 2])
    with pytest.raises(Exception, match="are missing before"):
        write(store, RUN, tmp_path, tensorboard=True, parquet=True, csv=True)
    assert list((tmp_path / RUN).iterdir()) == []


PAUSED = """
import sys
from pathlib import Path
import job.export.__main__ as export
from job.store import open_store

stream = export.stream_history

def paused(*arguments):
    for n, event in enumerate(stream(*arguments)):
        if n == 100:
            print("half", flush=True)
            sys.stdin.read()
        yield event

export.stream_history = paused
export.write(open_store(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), True, True, True)
"""
"""A process that exports a run, and waits in the middle until its stdin is closed."""


def half_way(store: Store, to: Path) -> subprocess.Popen[str]:
    """An export that has written half of its files."""
    process = subprocess.Popen(
        [sys.executable, "-c", PAUSED, store.url, RUN, str(to)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    return process


@pytest.mark.slow
def test_a_killed_export_leaves_no_file_that_looks_finished(store: Store, tmp_path: Path) -> None:
    """After SIGKILL no file has its name, or one that TensorBoard reads; the next export cleans up.

    Files that another process is still writing stay.
    """
    folder = tmp_path / RUN
    with half_way(store, tmp_path) as killed:
        killed.kill()
    left = {path.name for path in folder.iterdir()}
    assert len(left) == 3
    assert all(name.startswith(".") and "tfevents" not in name for name in left)
    with half_way(store, tmp_path) as writing:
        names = {path.name for path in folder.iterdir()}
        assert len(names) == 3
        assert not names & left
        paths = write(store, RUN, tmp_path, tensorboard=True, parquet=True, csv=True)
        assert {path.name for path in folder.iterdir()} == {path.name for path in paths} | names
        _, err = writing.communicate()
        assert "nothing is overwritten" in err
    assert {path.name for path in folder.iterdir()} == {path.name for path in paths}


def test_streaming_knows_what_counts(store: Store) -> None:
    """`stream_history` gives every event once, and those that count are `read_history`'s."""
    streamed = list(stream_history(store, RUN))
    assert [e for e, counts in streamed if counts] == read_history(store, RUN)
    assert [e for e, _ in streamed] == read_history(store, RUN, superseded=True)
    with pytest.raises(Missing):
        list(stream_history(store, "no/body"))
