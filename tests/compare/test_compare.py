"""Runs side by side: the rows, their means and spreads, and what becomes of one that fails."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from job.cli.app import main
from job.compare.differences import Difference, in_words, paired_differences
from job.compare.outcome import Outcome
from job.compare.runs import Variant, compare, seeded, train, variants
from job.compare.summary import print_table, summary
from job.data.dataset import load
from job.errors import InputError
from job.events import Epoch, EpochTask, GateResult
from job.record.result import Result
from job.spec import JobSpec
from job.spec.read import read_spec
from job.store import open_store
from tests.support.command import die, warm_job
from tests.support.tiny_job import HUGE, SMALL, Trained, write
from tests.support.tiny_job import job as small_job
from tests.support.warm_process import Nursery

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
                    **{key: four[2 * e + k] for key, four in chosen.items()}
                    | {"cosines": {}, "metrics": {"mae": 2.0}, "val_metrics": {"mae": seed + 1.0}}
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
        ("name", "message"),
        [
            ("foo", '--balance foo: found "foo"; must be one of "fixed", "running_mean",'),
            ("torchjd", "--balance torchjd: found no method; torchjd is many weightings"),
        ],
    )
    def test_an_unknown_balancer(self, specs: dict[Path, JobSpec], name: str, message: str) -> None:
        """One line that names what the user wrote."""
        with pytest.raises(InputError) as caught:
            variants(specs, f"fixed,{name}")
        (fault,) = caught.value.faults
        assert str(fault).startswith(message)


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

    def test_metrics_of_both_splits(self) -> None:
        """By name; one that a seed has no value of has no mean."""
        runs = [outcome(seed) for seed in range(3)]
        (row,) = summary(runs)
        assert row["tasks"]["a"]["train_mae"] == {"mean": 2.0, "sd": 0.0}
        assert row["tasks"]["b"]["val_mae"] == {"mean": 2.0, "sd": 1.0}
        runs[1].epochs[-1].tasks["a"].val_metrics["mae"] = None
        assert summary(runs)[0]["tasks"]["a"]["val_mae"]["mean"] is None

    def test_the_early_drop(self) -> None:
        """By epoch 5, or by the last of a shorter run."""
        run = outcome(0, drop=[0.25, 0, 0.75, 0])
        long = Outcome("row", 0, [*run.epochs[:1] * 5, run.epochs[1]], run.gates, 1.0)
        assert summary([run])[0]["tasks"]["a"]["drop_5"]["mean"] == 0.75
        assert summary([long])[0]["tasks"]["a"]["drop_5"]["mean"] == 0.25

    def test_pulls_give_the_ratio_of_any_two_tasks(self) -> None:
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
        """Means are over the seeds that ended; with none left the row still gives the reason."""
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
        print_table(summary([*runs, failed]))
        text = capsys.readouterr().out
        assert "20.0 ± 14.1%" in text
        assert "row: 2 seeds, 2.5 ± 0.707 ms a step" in text
        assert "row: a / b: 1 of 2 seeds, 0.5 ± 0.707" in text
        assert "[b]roken: seed 1: step 3: the loss of task a is inf" in text
        # Titles may take two lines.
        assert {"pull", "head", "z"} <= set(text.replace(",", "").split())

    @pytest.mark.parametrize("tasks", [1, 5])
    def test_the_table_fits_a_page(self, capsys: pytest.CaptureFixture[str], tasks: int) -> None:
        """At most 100 columns: what does not fit is hidden whole, and named."""
        runs = [outcome(s, val_skill=[0, 0, s / 3, -1e-3], weight=[1.0] * 4) for s in range(tasks)]
        rows = summary([*runs, Outcome("a row with a long name, torchjd:CAGrad", 1, error="x")])
        print_table(rows)
        text = capsys.readouterr().out
        table = text.split("\nrow: ")[0].splitlines()
        assert max(map(len, table)) <= 100
        assert {"val.", "skill"} <= set(" ".join(table).split())
        assert ("hidden columns: " in text) == (tasks > 1)


class TestDifferences:
    def test_beside_an_independent_computation(self) -> None:
        """Mean and interval of scipy's paired t-test; the surest one is beyond chance, the other
        is not, though alone it would be."""
        stats = pytest.importorskip("scipy.stats")
        random = np.random.default_rng(0)
        first, other = random.normal(size=(6, 2)), random.normal(size=(6, 2))
        other[:, 0] += first[:, 0] + 5
        other[:, 1] = first[:, 1] + 0.5 * random.normal(size=6) + 0.5
        found = paired_differences(
            [
                replace(outcome(seed, val_skill=[0, 0, a, b], drop=[0.5] * 4), variant=row)
                for row, values in (("base", first), ("new", other))
                for seed, (a, b) in enumerate(values)
            ]
        )
        assert [(d.row, d.task, d.measure, d.seeds) for d in found] == [
            ("new", task, measure, 6) for measure in ("val_skill", "drop") for task in "ab"
        ]
        for k, difference in enumerate(found[:2]):
            test = stats.ttest_rel(other[:, k], first[:, k])
            interval = test.confidence_interval(0.95)
            assert difference.mean == pytest.approx((other - first)[:, k].mean())
            assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))
            assert difference.certain == (4 * test.pvalue < 0.05)
        assert [d.certain for d in found] == [True, False, False, False]
        assert found[1].low > 0

    def test_in_words(self) -> None:
        """What differs, by how much and how surely; or that nothing does."""
        sure = Difference("new", "a", "val_skill", 8, 0.123, 0.1, 0.146, certain=True)
        unsure = sure._replace(task="b", certain=False)
        (line,) = in_words([sure, unsure], "base")
        assert line == (
            "new beside base: a: validation skill +12.3 points, 95% interval +10.0 to +14.6, "
            "8 seeds"
        )
        assert in_words([unsure], "base") == ["nothing differs from base beyond chance"]
        assert in_words([], "base") == []

    def test_noise_seldom_differs(self) -> None:
        """Of 200 comparisons of equal rows, each of 8 tables, about 5 % name a difference."""
        random = np.random.default_rng(1)
        named = 0
        for _ in range(200):
            runs = [
                replace(outcome(seed, val_skill=[0, 0, *random.normal(size=2)]), variant=row)
                for row in ("base", "x", "y")
                for seed in range(5)
            ]
            named += any(difference.certain for difference in paired_differences(runs))
        assert named <= 20

    def test_only_seeds_that_both_ended(self) -> None:
        """A failed seed, or a skill that cannot be told, takes its pair out; two pairs are none."""
        runs = [
            replace(outcome(seed, val_skill=[0, 0, float(seed), 0]), variant=row)
            for row in ("base", "new")
            for seed in range(4)
        ]
        runs[5] = Outcome("new", 1, error="it fell over")
        assert {d.seeds for d in paired_differences(runs)} == {3}
        runs[2] = Outcome("base", 2, error="it fell over")
        assert paired_differences(runs) == []


class TestRuns:
    def test_a_row_is_what_a_run_is(self, tmp_path: Path) -> None:
        """The outcome of a seed is that of training the spec with that seed."""
        path = write(tmp_path)
        (row,) = variants({path: read_spec(path)}, "")
        trained = Trained(*small_job(tmp_path, {"seed": 5}))
        trained.run()
        result = train(row, 5, one_thread=True)
        assert result.error is None
        assert [e.tasks for e in result.epochs] == [e.tasks for e in trained.epochs]

    def test_all_seeds_have_one_split(self, tmp_path: Path) -> None:
        """A seed draws the weights and the order; samples are held out by the spec's own seed."""
        path = write(tmp_path, {"seed": 3, "data.split": "random"})
        spec = read_spec(path)
        held_out = {
            seed: load(seeded(spec, seed), tmp_path).validation.inputs["features"]
            for seed in (3, 4)
        }
        assert torch.equal(held_out[3], held_out[4])
        assert torch.equal(held_out[3], load(spec, tmp_path).validation.inputs["features"])
        other = load(spec.model_copy(update={"seed": 4}), tmp_path).validation.inputs["features"]
        assert not torch.equal(held_out[3], other)

    def test_runs_that_are_kept(self, tmp_path: Path) -> None:
        """With a store each run is one like any other, under an id of its own; it measures what
        it measures in memory; the same comparison again trains nothing."""
        path = write(tmp_path, {"gates": [RATIO]})
        rows = variants({path: read_spec(path)}, "", control=True)
        store = str(tmp_path / "store")
        kept = [train(row, 5, one_thread=True, store=store) for row in rows]
        assert [(o.variant, o.error) for o in kept] == [("spec", None), ("spec, control", None)]
        for row, outcome in zip(rows, kept, strict=True):
            memory = train(row, 5, one_thread=True)
            assert [e.tasks for e in outcome.epochs] == [e.tasks for e in memory.epochs]
            assert outcome.gates == memory.gates
        assert kept[0].epochs[-1].tasks != kept[1].epochs[-1].tasks
        opened = open_store(store)
        before = {entry.key: opened.get(entry.key).data for entry in opened.list("")}
        assert {f"{outcome.key}/report.html" for outcome in kept} <= before.keys()
        again = [train(row, 5, one_thread=True, store=store) for row in rows]
        assert again == kept
        assert {entry.key: opened.get(entry.key).data for entry in opened.list("")} == before
        for outcome, is_control in zip(kept, (False, True), strict=True):
            assert outcome.key is not None
            result = Result.read(opened, outcome.key)
            assert result is not None
            assert result.control == is_control

    def test_a_store_that_cannot_be_written(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Its fault is the outcome, in a line and without a traceback."""
        path = write(tmp_path)
        (row,) = variants({path: read_spec(path)}, "")
        found = train(row, 0, one_thread=True, store=str(path))
        assert found.error is not None
        assert found.error.startswith(f"{path} is no directory that can be written")
        assert "Traceback" not in capfd.readouterr().err

    def test_any_error_is_an_outcome(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """An unexpected error fails its row, and its traceback is printed."""
        path = write(tmp_path)
        (row,) = variants({path: read_spec(path)}, "")
        (tmp_path / "small.npz").unlink()
        result = train(row, 0, one_thread=True)
        assert result.error is not None
        assert result.error.startswith("InputError: small.npz: found no file at")
        assert "Traceback" in capfd.readouterr().err

    def test_a_killed_process_is_an_outcome(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A killed process, as when memory runs out, is an error of its row."""
        path = write(tmp_path)
        rows = variants({path: read_spec(path)}, "")
        monkeypatch.setattr("job.compare.runs.train", die)
        (result,) = compare(rows, 1, 1, progress=lambda _: None)
        assert result.error == "its process, or one beside it, was killed"

    @pytest.mark.parametrize(
        ("edits", "balance", "message"),
        [
            ({"train.batch_size": 100}, "fixed", "fixed: $.train.batch_size: found 100;"),
            ({}, "fixed,torchjd:UpGrade", "torchjd:UpGrade: $.balance.method: found"),
        ],
        ids=["data", "method"],
    )
    def test_faults_are_reported_before_anything_trains(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        edits: dict[str, Any],
        balance: str,
        message: str,
    ) -> None:
        """Data that do not fit and methods that do not exist: exit 2, one line, no row."""
        path = write(tmp_path, edits)
        with pytest.raises(SystemExit) as end:
            main(["compare", str(path), "--balance", balance])
        assert end.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith(message)


@pytest.mark.slow
class TestCommand:
    @pytest.fixture(scope="class", name="rows")
    @staticmethod
    def compared(
        warm: Nursery, tmp_path_factory: pytest.TempPathFactory
    ) -> tuple[Path, list[dict[str, Any]]]:
        """Two specs of one file name, one of which explodes, on two seeds, two at a time."""
        folder = tmp_path_factory.mktemp("compare")
        write(folder / "good", {"gates": [RATIO]})
        tasks = [*SMALL["tasks"], HUGE]
        write(folder / "bad", {"tasks": tasks, "model.init.heads": "default"})
        paths = ["good/spec.json", "bad/spec.json"]
        ended = warm_job(
            warm, folder, "compare", *paths, "--seeds", "2", "--workers", "2", "--json"
        )
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
        """Means and deviations are those of two runs of these seeds, to the last bit."""
        folder, (good, _) = rows
        ends = []
        for seed in (0, 1):
            trained = Trained(*small_job(folder / "good", {"seed": seed, "gates": [RATIO]}))
            trained.run()
            ends.append(trained)
        for name, message in good["tasks"].items():
            tasks = [trained.epochs[-1].tasks[name] for trained in ends]
            for key in ("drop", "skill", "weight", "grad_share"):
                values = [getattr(task, key) for task in tasks]
                assert message[key]["mean"] == statistics.fmean(values)
                assert message[key]["sd"] == statistics.stdev(values)
        measured = [trained.gates[0].measured for trained in ends]
        assert good["gates"][0]["passed"] == 2
        assert good["gates"][0]["measured"]["mean"] == statistics.fmean(m for m in measured if m)
