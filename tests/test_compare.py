"""Runs side by side: the rows, their means and spreads, and what becomes of one that fails."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from job.__main__ import main
from job.compare import Outcome, Variant, compare, train, variants
from job.events import Epoch, EpochTask, GateResult
from job.faults import InputError
from job.read_spec import read_spec
from job.spec import JobSpec
from job.summary import summary, table
from tests.command import die, job
from tests.small import HUGE, SMALL, Trained, write
from tests.small import job as small_job

RATIO = {"ratio": ["down", "pair"], "between": [0.01, 100]}


def outcome(seed: int, **values: list[float]) -> Outcome:
    """A run of two epochs of tasks a and b; a value is [a in epoch 1, b, a in epoch 2, b]."""
    every: dict[str, list[float]] = dict.fromkeys(EpochTask.model_fields, [1.0] * 4)
    chosen = every | values
    epochs = [
        Epoch(
            epoch=e + 1,
            step=e + 1,
            tasks={
                name: EpochTask(
                    **{key: four[2 * e + k] for key, four in chosen.items()} | {"cosines": {}}
                )
                for k, name in enumerate("ab")
            },
            seconds=1,
            samples_per_second=1,
        )
        for e in range(2)
    ]
    gate = GateResult(gate="a / b", passed=seed > 0, measured=float(seed), unit="ratio", epoch=2)
    return Outcome("row", seed, epochs, [gate], step_ms=2.0 + seed)


class TestVariants:
    @pytest.fixture
    def specs(self, tmp_path: Path) -> dict[Path, JobSpec]:
        """Three specs, two of one file name."""
        paths = [
            write(tmp_path / "x", {"balance": {"kind": "fixed", "weights": {"down": 3.0}}}),
            write(tmp_path / "y", {"seed": 7}),
            write(tmp_path / "y", name="other.json"),
        ]
        return {path: read_spec(path) for path in paths}

    def test_a_spec_as_it_is(self, specs: dict[Path, JobSpec]) -> None:
        """Without a balancer each spec is a row of its own name, or of its path if that differs."""
        first, second, third = specs
        rows = variants(specs, "")
        assert rows == [
            Variant(str(first), specs[first], first.parent),
            Variant(str(second), specs[second], second.parent),
            Variant("other", specs[third], third.parent),
        ]

    def test_a_spec_under_balancers(self, specs: dict[Path, JobSpec]) -> None:
        """Rows are named by the balancer; nothing but the balance differs; weights are kept."""
        path, spec = next(iter(specs.items()))
        rows = variants({path: spec}, " uncertainty, torchjd:UPGrad,uncertainty ")
        assert [row.name for row in rows] == ["uncertainty", "torchjd:UPGrad"]
        weighted, unweighted = (row.spec.balance.model_dump() for row in rows)
        assert weighted == {"kind": "uncertainty", "lr": None, "weights": {"down": 3.0}}
        assert unweighted == {"kind": "torchjd", "method": "UPGrad", "options": {}}
        for row in rows:
            assert row.spec.model_copy(update={"balance": spec.balance}) == spec

    def test_all_specs_under_all_balancers(self, specs: dict[Path, JobSpec]) -> None:
        """No two rows have one name."""
        rows = variants(specs, "fixed,running_mean")
        assert len({row.name for row in rows}) == len(rows) == 6
        assert rows[-1].name == "other, running_mean"

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("foo", '--balance foo: found "foo"; must be one of "fixed", "running_mean",'),
            ("torchjd", "--balance torchjd: found no method; torchjd is many weightings"),
        ],
    )
    def test_an_unknown_balancer(self, specs: dict[Path, JobSpec], name: str, told: str) -> None:
        """One line that names what the user wrote."""
        with pytest.raises(InputError) as caught:
            variants(specs, f"fixed,{name}")
        (fault,) = caught.value.faults
        assert str(fault).startswith(told)


class TestSummary:
    def test_means_and_spreads(self) -> None:
        """Mean and sample standard deviation over the seeds, of the last epoch's values."""
        runs = [outcome(s, drop=[0, 0, d, 0.5]) for s, d in enumerate((0.1, 0.4, 0.7))]
        (row,) = summary(runs)
        assert (row["row"], row["seeds"], row["failed"]) == ("row", 3, [])
        assert row["tasks"]["a"]["drop"] == pytest.approx({"mean": 0.4, "sd": 0.3})
        assert row["tasks"]["b"]["drop"] == {"mean": 0.5, "sd": 0.0}
        assert row["step_ms"] == {"mean": 3.0, "sd": 1.0}
        measured = {"mean": 1.0, "sd": 1.0}
        gate = {"gate": "a / b", "unit": "ratio", "passed": 2, "measured": measured}
        assert row["gates"] == [gate]

    def test_the_early_drop(self) -> None:
        """By epoch 5, or by the last of a shorter run."""
        run = outcome(0, drop=[0.25, 0, 0.75, 0])
        long = Outcome("row", 0, [*run.epochs[:1] * 5, run.epochs[1]], run.gates, 1.0)
        assert summary([run])[0]["tasks"]["a"]["drop_5"]["mean"] == 0.75
        assert summary([long])[0]["tasks"]["a"]["drop_5"]["mean"] == 0.25

    def test_pulls_tell_the_ratio_of_any_two_tasks(self) -> None:
        """Over the geometric mean of all tasks', at z and at the heads."""
        run = outcome(0, pull=[1, 1, 0.5, 8], head_pull=[1, 1, 3, 3])
        a, b = (summary([run])[0]["tasks"][name] for name in "ab")
        assert (a["pull_z"]["mean"], b["pull_z"]["mean"]) == pytest.approx((0.25, 4))
        assert a["pull_head"]["mean"] == b["pull_head"]["mean"] == pytest.approx(1)

    def test_a_task_that_does_not_pull(self) -> None:
        """Is 0 and leaves the others comparable; with no pull at all every one is 0."""
        a, b = (summary([outcome(0, pull=[1, 1, 0, 8])])[0]["tasks"][name] for name in "ab")
        assert (a["pull_z"]["mean"], b["pull_z"]["mean"]) == (0, pytest.approx(1))
        assert summary([outcome(0, pull=[0.0] * 4)])[0]["tasks"]["a"]["pull_z"]["mean"] == 0

    def test_no_number_is_null(self) -> None:
        """A skill that is not a number, a spread of one run: valid JSON all the same."""
        (row,) = summary([outcome(0, skill=[0, 0, math.nan, 0])])
        assert row["tasks"]["a"]["skill"] == {"mean": None, "sd": None}
        assert row["tasks"]["b"]["skill"] == {"mean": 0, "sd": None}
        json.dumps(row, allow_nan=False)

    def test_a_failed_run_is_named_and_left_out(self) -> None:
        """Means are over the seeds that ended; with none left the row still tells why."""
        failed = Outcome("row", 1, error="step 3: the loss of task a is inf")
        (row,) = summary([outcome(0, drop=[0, 0, 0.5, 0]), failed])
        assert row["seeds"] == 2
        assert row["failed"] == ["seed 1: step 3: the loss of task a is inf"]
        assert row["tasks"]["a"]["drop"] == {"mean": 0.5, "sd": None}
        (alone,) = summary([failed])
        assert (alone["tasks"], alone["gates"], alone["step_ms"]["mean"]) == ({}, [], None)

    def test_the_printed_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A line per row and task with mean ± sd, the gates below, failures by name."""
        runs = [outcome(s, drop=[0, 0, d, 0]) for s, d in enumerate((0.1, 0.3))]
        failed = Outcome("[b]roken", 1, error="step 3: the loss of task a is inf")
        table(summary([*runs, failed]))
        text = capsys.readouterr().out
        assert "20.0 ± 14.1%" in text
        assert "2 seeds, 2.5 ± 0.707 ms a step" in text
        assert "row: a / b: 1 of 2 seeds, 0.5 ± 0.707" in text
        assert "[b]roken: seed 1: step 3: the loss of task a is inf" in text
        assert "pull z" in text
        assert "pull head" in text


class TestRuns:
    def test_a_row_is_what_a_run_is(self, tmp_path: Path) -> None:
        """The outcome of a seed is that of training the spec with that seed."""
        path = write(tmp_path)
        (row,) = variants({path: read_spec(path)}, "")
        trained = Trained(*small_job(tmp_path, {"seed": 5}))
        trained.run()
        found = train(row, 5, one_thread=True)
        assert found.error is None
        assert [e.tasks for e in found.epochs] == [e.tasks for e in trained.epochs]

    def test_any_error_is_an_outcome(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """What no one foresaw fails its row, and shows where it came from."""
        path = write(tmp_path)
        (row,) = variants({path: read_spec(path)}, "")
        (tmp_path / "small.npz").unlink()
        found = train(row, 0, one_thread=True)
        assert found.error is not None
        assert found.error.startswith("InputError: small.npz: found no file at")
        assert "Traceback" in capfd.readouterr().err

    def test_a_killed_process_is_an_outcome(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As when memory runs out: told in its row."""
        path = write(tmp_path)
        rows = variants({path: read_spec(path)}, "")
        monkeypatch.setattr("job.compare.train", die)
        (found,) = compare(rows, 1, 1, progress=lambda _: None)
        assert found.error == "its process, or one beside it, was killed"

    @pytest.mark.parametrize(
        ("edits", "balance", "told"),
        [
            ({"train.batch_size": 100}, "fixed", "fixed: $.train.batch_size: found 100;"),
            ({}, "fixed,torchjd:UpGrade", "torchjd:UpGrade: $.balance.method: found"),
        ],
        ids=["data", "method"],
    )
    def test_faults_are_told_before_anything_trains(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        edits: dict[str, Any],
        balance: str,
        told: str,
    ) -> None:
        """Data that do not fit and methods that do not exist: exit 2, one line, no row."""
        path = write(tmp_path, edits)
        with pytest.raises(SystemExit) as end:
            main(["compare", str(path), "--balance", balance])
        assert end.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith(told)


class TestCommand:
    @pytest.fixture(scope="class", name="rows")
    @staticmethod
    def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
        """Two specs of one file name, one of which explodes, on two seeds, two at a time."""
        folder = tmp_path_factory.mktemp("compare")
        write(folder / "good", {"gates": [RATIO]})
        tasks = [*SMALL["tasks"], HUGE]
        write(folder / "bad", {"tasks": tasks, "model.init.heads": "default"})
        paths = ["good/spec.json", "bad/spec.json"]
        ended = job(folder, "compare", *paths, "--seeds", "2", "--workers", "2", "--json")
        assert ended.returncode == 1, ended.stderr
        assert "4/4 " in ended.stderr
        return folder, [json.loads(line) for line in ended.stdout.splitlines()]

    def test_a_line_per_row(self, rows: tuple[Path, list[dict[str, Any]]]) -> None:
        """Both specs are there, though their file names are equal; the failed one says why."""
        good, bad = rows[1]
        assert (good["row"], bad["row"]) == ("good/spec.json", "bad/spec.json")
        assert good["failed"] == []
        assert len(bad["failed"]) == 2
        assert bad["tasks"] == {}
        for seed, error in enumerate(bad["failed"]):
            assert error.startswith(f"seed {seed}: step ")
            assert "the loss of task huge is inf" in error

    def test_numbers_are_those_of_the_runs(self, rows: tuple[Path, list[dict[str, Any]]]) -> None:
        """Means and spreads of what two runs of these seeds tell, to the last bit."""
        folder, (good, _) = rows
        ends = []
        for seed in (0, 1):
            trained = Trained(*small_job(folder / "good", {"seed": seed, "gates": [RATIO]}))
            trained.run()
            ends.append(trained)
        for name, told in good["tasks"].items():
            tasks = [trained.epochs[-1].tasks[name] for trained in ends]
            for key in ("drop", "skill", "weight", "grad_share"):
                values = [getattr(task, key) for task in tasks]
                assert told[key]["mean"] == statistics.fmean(values)
                assert told[key]["sd"] == statistics.stdev(values)
        measured = [trained.gates[0].measured for trained in ends]
        assert good["gates"][0]["passed"] == 2
        assert good["gates"][0]["measured"]["mean"] == statistics.fmean(m for m in measured if m)
