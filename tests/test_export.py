"""A run's numbers for other tools: the same numbers, in files that others can read."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from job.export import main, tag, write
from job.history import read_history, stream_history
from job.metrics import Metric
from job.store import Missing, Store, open_store
from job.tidy import SCHEMA
from tests.command import environment
from tests.recorded import EPOCHS, STEPS, Recorded

RUN = "jade/r1"
TASKS = ("type", "countdown")
Row = dict[str, Any]


def told() -> Recorded:
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
    run.finish()
    for line in run.lines:
        if line["event"] == "run.started":
            line["tasks"]["countdown"] |= {"unit": "bars", "loss_unit": "bars²"}
    return run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Where the run is."""
    store = open_store(tmp_path_factory.mktemp("store"))
    told().store(store, RUN)
    return store


@pytest.fixture(scope="module")
def exported(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of its files."""
    to = tmp_path_factory.mktemp("exported")
    paths = write(store, RUN, to, tensorboard=True, parquet=True, csv=True)
    assert {path.parent for path in paths} == {to / RUN}
    return to / RUN


@pytest.fixture(scope="module")
def rows(exported: Path) -> list[Row]:
    """Of the Parquet file."""
    table = pyarrow.parquet.read_table(exported / "metrics.parquet")
    assert table.schema.equals(SCHEMA)
    found: list[Row] = table.to_pylist()
    return found


def numbers(events: list[Row]) -> Iterator[tuple[Any, ...]]:
    """What a history says, walked independently: (seq, task, other, metric, value)."""
    skipped = {"ts", "schema", "run_id", "seq", "event", "step", "epoch"}
    for event in events:
        if event["event"] == "alarm":
            yield event["seq"], event.get("task"), None, "alarm", 1.0
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


def key(row: Row) -> tuple[Any, ...]:
    value = "nan" if math.isnan(row["value"]) else row["value"]
    return row["seq"], row["task"], row["other"], row["metric"], value


class TestTables:
    def test_numbers_are_those_of_the_history(self, store: Store, rows: list[Row]) -> None:
        """Every number of every event that counts, each once, and no other."""
        wanted = [
            (seq, task, other, name, "nan" if math.isnan(value) else value)
            for seq, task, other, name, value in numbers(read_history(store, RUN))
        ]
        assert sorted(map(key, rows), key=repr) == sorted(wanted, key=repr)
        assert len(wanted) > 3000

    def test_columns_say_what_a_number_is_of(self, rows: list[Row]) -> None:
        """Attempt, step, epoch, split, unit; a gate by its words, an alarm by its kind."""

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
        assert only(event="alarm")["about"] == "task_starving"
        assert only(event="gate", metric="passed")["about"] == "a drops > 20% by epoch 5"
        assert only(event="run.finished", metric="exit_code")["value"] == 6.0
        assert {row["superseded"] for row in rows} == {False}

    def test_csv_holds_the_same(self, exported: Path, rows: list[Row]) -> None:
        """Row for row; nan and empty are told apart."""
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

    def test_what_was_taken_back_can_be_kept(self, store: Store, tmp_path: Path) -> None:
        """With --superseded every event's numbers are there, and marked."""
        write(store, RUN, tmp_path, parquet=True, superseded=True)
        table = pyarrow.parquet.read_table(tmp_path / RUN / "metrics.parquet").to_pylist()
        everything = list(numbers(read_history(store, RUN, superseded=True)))
        assert len(table) == len(everything)
        marked = {row["seq"] for row in table if row["superseded"]}
        counted = {event["seq"] for event in read_history(store, RUN)}
        gone = [e for e in told().lines if e["seq"] not in counted and e["event"] != "superseded"]
        assert marked == {event["seq"] for event in gone}

    @pytest.mark.slow
    def test_a_run_streams(self, tmp_path: Path) -> None:
        """Ten times the steps need about the same memory: nothing holds a whole run."""
        peaks = []
        for steps in (500, 5000):
            run, tasks = Recorded(*(f"task_{k}" for k in range(32)), epochs=steps), 32
            first = run.begin()
            line = run.train(1)
            folder = tmp_path / str(steps)
            _long(open_store(folder), first, line, steps)
            code = (
                "import sys; from pathlib import Path\n"
                "from job.export import write; from job.store import open_store\n"
                "to = Path(sys.argv[1])\n"
                "write(open_store(to), 'jade/r1', to / 'to', True, True)\n"
                "lines = Path('/proc/self/status').read_text().splitlines()\n"
                "print(next(line.split()[1] for line in lines if line.startswith('VmHWM')))"
            )
            ended = subprocess.run(
                [sys.executable, "-c", code, str(folder)],
                env=environment(), capture_output=True, text=True, check=True, timeout=120,
            )  # fmt: skip
            peaks.append(int(ended.stdout))
            table = pyarrow.parquet.read_metadata(folder / "to" / RUN / "metrics.parquet")
            assert table.num_rows > steps * tasks * 8
        assert peaks[1] < 500_000  # kB
        assert peaks[1] < 1.5 * peaks[0]


def _long(store: Store, first: Row, line: Row, steps: int) -> None:
    """Store a run of that many steps, all alike but for their numbers."""
    run = Recorded(*first["tasks"])
    run.lines = [first]
    run.lines += [line | {"seq": n + 1, "step": n} for n in range(1, steps + 1)]
    run.store(store, RUN)


class TestTensorBoard:
    @pytest.fixture(scope="class")
    @staticmethod
    def board(exported: Path) -> EventAccumulator:
        """What TensorBoard itself reads."""
        accumulator = EventAccumulator(str(exported), size_guidance={"scalars": 0})
        accumulator.Reload()
        return accumulator

    def test_numbers_are_those_of_the_history(self, board: Any, store: Store) -> None:
        """Every scalar at its step, in single precision; what is not finite is NaN."""
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
        """A chart's group is what is before the slash: one metric, all tasks."""
        tags = board.Tags()["scalars"]
        assert {"step/lr", "step.loss/type", "step.loss/countdown"} <= set(tags)
        assert {t.split("/")[0] for t in tags if t.startswith("step.")} >= {"step.grad_share"}

    def test_numbers_too_large_for_it(self, tmp_path: Path) -> None:
        """What single precision cannot hold is infinite there, and whole in the tables."""
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
        """The name is found in the store; the files are told, one a line."""
        assert self.run("r1", "--store", store.url, "--to", tmp_path, "--csv") == 0
        assert capsys.readouterr().out == f"{tmp_path / RUN / 'metrics.csv'}\n"

    def test_by_its_folder(self, store: Store, tmp_path: Path) -> None:
        """As the deploy commands take it: the store is found from it."""
        assert self.run(Path(store.url) / RUN, "--to", tmp_path, "--csv") == 0
        assert (tmp_path / RUN / "metrics.csv").is_file()

    def test_overwrites_nothing(
        self, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Exit 2, a line names the file, which stays as it is; nothing else is left behind."""
        mine = tmp_path / RUN / "metrics.csv"
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")
        options = ("--store", store.url, "--to", tmp_path, "--parquet", "--csv", "--tensorboard")
        assert self.run(RUN, *options) == 2
        assert capsys.readouterr().err.startswith(f"{mine}: found a file; nothing is overwritten")
        assert [path.name for path in mine.parent.iterdir()] == ["metrics.csv"]
        assert mine.read_text() == "mine"

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            ((RUN, "--to", "x"), 2, "choose at least one of --tensorboard, --parquet and --csv"),
            ((RUN, "--csv"), 2, "Missing option '--to'"),
            (("nobody", "--to", "x", "--csv"), 1, "holds no run nobody"),
            (("no/body", "--to", "x", "--csv"), 1, "has no run no/body"),
        ],
    )
    def test_what_cannot_be(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        arguments: tuple[str, ...],
        code: int,
        said: str,
    ) -> None:
        """One line says what, and no file is written."""
        monkeypatch.chdir(tmp_path)
        assert self.run(*arguments) == code
        assert said in capsys.readouterr().err.splitlines()[-1]
        assert not list(tmp_path.rglob("*.csv"))

    def test_help_tells_columns_and_codes(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Every column of the table is named."""
        assert self.run("--help") == 0
        text = capsys.readouterr().out
        for name in SCHEMA.names:
            assert name in text
        assert "Exit codes: 0 written;" in text


def test_a_damaged_run_leaves_no_file(tmp_path: Path) -> None:
    """A segment that is missing is told, and what was begun is removed."""
    store = open_store(tmp_path / "store")
    told().store(store, RUN)
    segments = [entry.key for entry in store.list(f"{RUN}/events/")]
    store.delete(segments[len(segments) // 2])
    with pytest.raises(Exception, match="are missing before"):
        write(store, RUN, tmp_path, tensorboard=True, parquet=True, csv=True)
    assert list((tmp_path / RUN).iterdir()) == []


def test_streaming_says_what_counts(store: Store) -> None:
    """`stream_history` gives every event once, and those that count are `read_history`'s."""
    streamed = list(stream_history(store, RUN))
    assert [e for e, counts in streamed if counts] == read_history(store, RUN)
    assert [e for e, _ in streamed] == read_history(store, RUN, superseded=True)
    with pytest.raises(Missing):
        list(stream_history(store, "no/body"))
