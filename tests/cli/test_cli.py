"""The command line in processes of its own: exit codes, signals, JSON lines, terminals."""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from job.events.json_schema import schema
from job.events.log import Line
from job.record.history import read_history
from job.spec.read import schema as spec_schema
from job.store import open_store
from tests.support.command import ROOT, Ended, environment, here, job, on_terminal, start, warm_job
from tests.support.hold import Hold
from tests.support.supervised import plant
from tests.support.tiny_job import DEAD, HUGE, SMALL, STEPS, write
from tests.support.warm_process import Nursery, Process, until

EASY = [{"task": "down", "drop": -9.0, "by_epoch": 3}]
ENDING = [
    {"ratio": ["down", "dead"], "between": [0, 9]},
    {"task": "pair", "drop": -9.0, "by_epoch": 2},
]
LONG = 12
"""Epochs of the run that is interrupted twice."""
CUTS = (4 * STEPS + 2, 8 * STEPS + 3)
"""Steps at which a signal comes, in mid-epoch."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Specs: one that passes, one whose gate fails, one that explodes, one that lasts."""
    folder = tmp_path_factory.mktemp("cli")
    write(folder, {"name": "passing", "gates": EASY}, "passing.json")
    failing = {"name": "failing", "tasks": [*SMALL["tasks"], DEAD], "gates": ENDING}
    write(folder, failing, "failing.json")
    explode = {"name": "exploding", "tasks": [*SMALL["tasks"], HUGE], "gates": EASY}
    write(folder, explode | {"model.init.heads": "default"}, "exploding.json")
    lasting = {"name": "lasting", "train.epochs": LONG, "checkpoint.every_epochs": 6}
    lasting |= {"gates": EASY}
    write(folder, lasting, "lasting.json")
    return folder


def warm_run(
    nursery: Nursery, folder: Path, name: str, run_id: str, *options: str, **circumstances: Any
) -> Process:
    """Train a spec in a process that starts at once, into the folder's store."""
    arguments = ("run", folder / f"{name}.json", "--store", folder / "runs", "--run-id", run_id)
    return nursery.start(*arguments, *options, **circumstances)


@pytest.fixture(scope="module")
def ended(folder: Path, warm: Nursery) -> dict[str, Ended]:
    """Two runs to their ends."""
    failing = ("run", "failing.json", "--run-id", "one", "--json")
    exploding = ("run", "exploding.json", "--run-id", "one", "--pretty")
    return {
        "failing": warm_job(warm, folder, *failing),
        "exploding": job(folder, *exploding, PYTHONIOENCODING="ascii"),
    }


@pytest.fixture(scope="module")
def dumb(folder: Path) -> tuple[int, str]:
    """The passing run, on a terminal that knows no escape sequence."""
    options = ["passing.json", "--run-id", "one"]
    code, text = on_terminal(folder, "run", *options, TERM="dumb", NO_COLOR="1")
    return code, text.replace("\r\n", "\n")


def parsed(lines: str) -> list[Line]:
    """Every line as strict JSON."""

    def refuse(token: str) -> float:
        raise AssertionError(f"{token} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in lines.splitlines()]


def result(folder: Path, name: str, run_id: str = "one") -> Line:
    """The stored result of a run."""
    value: Line = json.loads((folder / "runs" / name / run_id / "result.json").read_text())
    return value


def stored(folder: Path, name: str) -> dict[Path, bytes]:
    """Everything that a run keeps."""
    files = (folder / "runs" / name / "one").rglob("*")
    return {path: path.read_bytes() for path in files if path.is_file()}


def final_weights(folder: Path, name: str, run_id: str) -> dict[str, Tensor]:
    """The network at the end of a run."""
    where = folder / "runs" / name / run_id / result(folder, name, run_id)["checkpoint"]
    weights: dict[str, Tensor] = safetensors.torch.load_file(where / "model.safetensors")
    return weights


class TestExitCodes:
    def test_passed_is_0(self, dumb: tuple[int, str], folder: Path) -> None:
        """Every gate holds: succeeded, in the store as well."""
        assert dumb[0] == 0
        assert result(folder, "passing")["reason"] == "succeeded"
        assert result(folder, "passing")["exit_code"] == 0

    def test_a_failed_gate_is_6(self, ended: dict[str, Ended], folder: Path) -> None:
        """The verdict names each gate with what was measured."""
        assert ended["failing"].returncode == 6
        last = parsed(ended["failing"].stdout)[-1]
        assert (last["reason"], last["exit_code"]) == ("gates_failed", 6)
        ratio, drop = last["gates"]
        assert not ratio["passed"]
        assert ratio["measured_nonfinite"] is True
        assert drop["passed"]
        assert drop["measured"] < 1
        assert result(folder, "failing")["gates"] == last["gates"]

    def test_a_loss_that_is_not_finite_is_1(self, ended: dict[str, Ended], folder: Path) -> None:
        """Task and step are named, for a person and in the store; the gates have failed."""
        assert ended["exploding"].returncode == 1
        stored = result(folder, "exploding")
        assert stored["reason"] == "failed"
        assert stored["error"].startswith(f"step {stored['steps'] + 1}: the loss of task huge is")
        assert not stored["gates"][0]["passed"]
        assert f"failed: {stored['error']}" in ended["exploding"].stdout
        assert "Traceback" not in ended["exploding"].stderr

    @pytest.mark.usefixtures("ended", "dumb")
    @pytest.mark.parametrize(("name", "code"), [("passing", 0), ("failing", 6), ("exploding", 1)])
    def test_a_finished_run_is_not_repeated(
        self, folder: Path, nursery: Nursery, name: str, code: int
    ) -> None:
        """Started again it trains nothing, changes nothing and exits with the recorded code."""
        before = stored(folder, name)
        again = warm_run(nursery, folder, name, "one", "--json")
        assert (again.wait(), again.out) == (code, "")
        page = folder / "runs" / name / "one" / "report.html"
        line = f"run one has finished; its exit code was {code}; report: {page}\n"
        assert again.err == line
        assert stored(folder, name) == before


def test_ctrl_c_while_modules_are_loaded() -> None:
    """It ends with 130, and no traceback."""
    code = """
import runpy, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "job.cli.app":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
runpy.run_module("job", run_name="__main__")
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "")


class TestInvalid:
    def test_a_spec(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Exit 2, one line per fault on stderr, nothing on stdout."""
        edits = {"train.epoch": 3, "optimizer.lr": 0, "name": "Bad Name"}
        bad = write(folder, edits, "bad.json")
        for command in ("run", "validate", "compare"):
            code, out, err = here(capsys, command, bad)
            assert (code, out) == (2, "")
            found = sorted(line.split(":")[0] for line in err.splitlines())
            assert found == ["$.name", "$.optimizer.lr", "$.train.epoch"]

    def test_data(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A fault of the data is a line too, with row and column."""
        write(folder / "data", {"train.batch_size": 1000})
        arrays = dict(np.load(folder / "data" / "small.npz"))
        arrays["level"][7] = np.nan
        np.savez(folder / "data" / "small.npz", **arrays)
        options = ("--json", "--store", folder / "data" / "runs")
        code, out, err = here(capsys, "run", folder / "data" / "spec.json", *options)
        assert (code, out) == (2, "")
        bad_value, bad_size = err.splitlines()
        assert "small.npz, row 7, column level" in bad_value
        assert bad_size.startswith("$.train.batch_size: found 1000;")

    @pytest.mark.parametrize(
        ("arguments", "part"),
        [
            (["run"], "Missing argument"),
            (["run", "passing.json", "--colour"], "No such option: --colour"),
            (["run", "passing.json", "--json", "--pretty"], "choose one of --json and --pretty"),
            (["run", "passing.json", "--run-id", "No/Way"], "a run id is of a-z, 0-9 and -"),
            (["compare", "passing.json", "--seeds", "0"], "greater than or equal to 1"),
            (["fly"], "No such command"),
        ],
    )
    def test_usage(
        self, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
    ) -> None:
        """Exit 2 and what is wrong, on stderr alone."""
        code, out, err = here(capsys, *arguments)
        assert (code, out) == (2, "")
        assert part in err.splitlines()[-1]

    def test_a_missing_spec(self, capsys: pytest.CaptureFixture[str]) -> None:
        """One line names the path."""
        code, out, err = here(capsys, "validate", "nowhere.json")
        assert (code, out) == (2, "")
        assert err == (
            "nowhere.json: found no such file; a spec file is needed; correct the path\n"
        )

    def test_a_method_that_torchjd_lacks(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """`validate` finds what a run would."""
        balance = {"kind": "torchjd", "method": "UpGrade"}
        path = write(folder / "method", {"balance": balance})
        code, _, err = here(capsys, "validate", path)
        assert code == 2
        assert err.startswith("$.balance.method: found UpGrade; ")


class TestJsonLines:
    @pytest.fixture
    def events(self, ended: dict[str, Ended]) -> list[Line]:
        """All lines of a run with numbers that are not finite, parsed strictly."""
        return parsed(ended["failing"].stdout)

    def test_are_numbered_and_stamped(self, events: list[Line]) -> None:
        """Every line has its envelope; seq has no gap from 1 on; time does not run back."""
        assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
        assert {e["run_id"] for e in events} == {"one"}
        assert {e["schema"] for e in events} == {1}
        stamps = [e["ts"] for e in events]
        assert stamps == sorted(stamps)

    def test_obey_the_published_schema(
        self, events: list[Line], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What `schema --events` prints holds for every line, not finite numbers included."""
        published = json.loads(here(capsys, "schema", "--events")[1])
        assert published == schema()
        for event in events:
            jsonschema.validate(event, published, jsonschema.Draft202012Validator)

    def test_come_in_order(self, events: list[Line]) -> None:
        """run.started, then per epoch its steps and itself, run.finished last."""
        kinds = [e["event"] for e in events]
        assert kinds[0] == "run.started"
        assert kinds[-1] == "run.finished"
        training = [k for k in kinds if k in ("step", "epoch")]
        assert training == [*["step"] * STEPS, "epoch"] * SMALL["train"]["epochs"]
        assert "checkpoint.saved" in kinds

    def test_gates_have_events_when_read(self, events: list[Line]) -> None:
        """Each gate has its event once, right after the epoch at which it is read."""
        gates = [e for e in events if e["event"] == "gate"]
        assert sorted(e["gate"] for e in gates) == sorted(e["gate"] for e in events[-1]["gates"])
        for gate in gates:
            epochs = [e for e in events if e["event"] == "epoch" and e["seq"] < gate["seq"]]
            assert epochs[-1]["epoch"] == gate["epoch"]

    def test_are_what_the_store_keeps(self, events: list[Line], folder: Path) -> None:
        """The record in the store is the lines of stdout."""
        name = f"{events[0]['name']}/one"
        assert read_history(open_store(str(folder / "runs")), name) == events


def interrupted(
    warm: Nursery, folder: Path, hold: Path, number: signal.Signals, step: int
) -> list[Line]:
    """The lines of the lasting run `cut`, given a signal after a step; it exits 75."""
    held, options = Hold(hold), ("--json", "--grace", "3600")
    process = warm_run(warm, folder, "lasting", "cut", *options, hold=(hold, step))
    held.interrupt(process, number)
    assert process.wait() == 75, process.err
    assert "Traceback" not in process.err
    return parsed(process.out)


class TestInterrupted:
    @pytest.fixture(scope="class", name="attempts")
    @staticmethod
    def run_in_parts(
        folder: Path, warm: Nursery, tmp_path_factory: pytest.TempPathFactory
    ) -> list[list[Line]]:
        """The lasting run, cut by SIGTERM and then by SIGINT."""
        return [
            interrupted(warm, folder, tmp_path_factory.mktemp("hold"), number, step)
            for number, step in zip((signal.SIGTERM, signal.SIGINT), CUTS, strict=True)
        ]

    @pytest.fixture(scope="class", name="terminal")
    @staticmethod
    def go_on(folder: Path, attempts: list[list[Line]]) -> tuple[int, str]:
        """Its last part, on a terminal."""
        assert attempts
        options = ["lasting.json", "--run-id", "cut"]
        return on_terminal(folder, "run", *options, TERM="xterm-256color")

    @pytest.fixture(scope="class", name="whole")
    @staticmethod
    def run_undisturbed(folder: Path) -> tuple[int | None, str]:
        """The same run as a whole, whose reader leaves after the first line."""
        with start(folder, "run", "lasting.json", "--run-id", "whole", "--json") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            stderr = process.stderr.read()
        return process.returncode, stderr

    def test_stops_in_the_middle(self, attempts: list[list[Line]]) -> None:
        """Each attempt takes steps, ends before the last one, and begins where the last ended."""
        first, second = ([e["step"] for e in a if e["event"] == "step"] for a in attempts)
        assert first[0] == 1
        assert CUTS[0] <= first[-1] <= CUTS[0] + 1  # the step that was held
        assert second[0] == first[-1] + 1
        assert CUTS[1] <= second[-1] <= CUTS[1] + 1
        assert attempts[1][0]["resumed_from"] == first[-1]

    def test_numbers_go_on(self, attempts: list[list[Line]]) -> None:
        """Over attempts, too, seq has no gap and no repeat."""
        seqs = [e["seq"] for e in itertools.chain(*attempts)]
        assert seqs == list(range(1, len(seqs) + 1))

    @pytest.mark.slow
    def test_ends_as_if_undisturbed(
        self, folder: Path, terminal: tuple[int, str], whole: tuple[int | None, str]
    ) -> None:
        """The final weights are equal bit for bit, and so are all events of steps and epochs."""
        assert terminal[0] == 0
        cut, undisturbed = (final_weights(folder, "lasting", run) for run in ("cut", "whole"))
        assert cut.keys() == undisturbed.keys()
        for name, tensor in cut.items():
            assert torch.equal(tensor, undisturbed[name]), name
        assert self._comparable(folder, "cut") == self._comparable(folder, "whole")

    @staticmethod
    def _comparable(folder: Path, run_id: str) -> list[Line]:
        timings = ("ts", "seq", "run_id", "step_ms", "seconds", "samples_per_second")
        events = read_history(open_store(str(folder / "runs")), f"lasting/{run_id}")
        kept = [e for e in events if e["event"] in ("step", "epoch", "gate")]
        assert len(kept) == LONG * (STEPS + 1) + len(EASY)
        return [{k: v for k, v in e.items() if k not in (*timings, "checkpoint_age")} for e in kept]

    def test_outlives_its_reader(self, whole: tuple[int | None, str]) -> None:
        """A run whose stdout is closed goes on to its end, without complaint."""
        assert whole == (0, "")

    def test_a_terminal_sees_text(self, terminal: tuple[int, str]) -> None:
        """No JSON; a bar that begins where the run goes on, and ends at its end; the verdict."""
        _, text = terminal
        assert '{"ts"' not in text
        bars = re.findall(rf"(\d+)/{LONG * STEPS} steps", text)
        assert int(bars[0]) >= CUTS[1]
        assert int(bars[-1]) == LONG * STEPS
        assert "succeeded" in text
        first = text.split("lasting run cut")[1]
        assert "by epoch" in first  # from the processes before
        assert "gates: 1 passed" in first


class TestText:
    def test_a_dumb_terminal(self, dumb: tuple[int, str]) -> None:
        """No escape sequence, one line per epoch, and none wider than the terminal but whole
        sentences: alarms, and what the run is worth."""
        _, text = dumb
        assert "\x1b" not in text
        assert '{"ts"' not in text
        lines = text.splitlines()
        sentences = ("alarm ", "beats ", "does not surely beat ", "the validation split ")
        assert max(len(line) for line in lines if not line.startswith(sentences)) <= 100
        assert [line.split()[0] for line in lines if line[:5].strip().isdigit()] == ["1", "2", "3"]

    def test_ends_with_both_tables(self, dumb: tuple[int, str]) -> None:
        """Tasks, then gates, then the end."""
        _, text = dumb
        tasks, gates = text.index("after epoch 3"), text.index("\ngates")
        assert tasks < gates < text.index("succeeded · exit 0 · 3 epochs, 15 steps")
        for task in SMALL["tasks"]:
            assert task["name"] in text[tasks:gates]

    def test_pretty_without_a_terminal(self, ended: dict[str, Ended], folder: Path) -> None:
        """--pretty is text in a pipe, without escape sequences, in whatever encoding; it tells
        where the run is kept and where its report is."""
        text = ended["exploding"].stdout
        assert ", exit 1, 0 epochs" in text  # where ASCII lacks a dot
        assert text.startswith("exploding run one\n")
        assert f"\nstore {folder / 'runs'}\n" in text
        page = folder / "runs" / "exploding" / "one" / "report.html"
        assert text.endswith(f"\nreport: {page}\n")
        assert "\x1b" not in text
        assert "{" not in text


class TestWithoutTorch:
    @pytest.mark.parametrize(
        "arguments",
        [["--help"], ["validate", "passing.json", "--no-data"], ["schema"]],
        ids=" ".join,
    )
    def test_answers_without_loading_torch(self, folder: Path, arguments: list[str]) -> None:
        """What needs no tensor does not wait for the library; the time is printed."""
        code = (
            "import sys; from job.cli.app import main\n"
            f"try: main({arguments!r})\n"
            "except SystemExit as end: assert not end.code\n"
            "assert 'torch' not in sys.modules"
        )
        begun = time.perf_counter()
        ended = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        print(f"{' '.join(arguments)}: {time.perf_counter() - begun:.2f} s")
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout

    def test_prints_the_schema_of_the_spec(self, capsys: pytest.CaptureFixture[str]) -> None:
        """`schema` alone is the spec's."""
        printed: dict[str, Any] = json.loads(here(capsys, "schema")[1])
        assert printed == spec_schema()


class TestWhatWentWrongOnce:
    @pytest.mark.slow
    def test_a_finished_run_is_of_its_spec(self, tmp_path: Path, nursery: Nursery) -> None:
        """Under another spec a finished run has no verdict: exit code 2, and what differs."""
        write(tmp_path)
        assert warm_run(nursery, tmp_path, "spec", "x").wait() == 0
        write(tmp_path, {"train.epochs": 4}, "other.json")
        other = warm_run(nursery, tmp_path, "other", "x")
        assert (other.wait(), other.out) == (2, "")
        assert "train.epochs" in other.err

    @pytest.mark.slow
    def test_output_on_a_full_disk(self, tmp_path: Path) -> None:
        """A run whose output cannot be written goes on: its record is in the store."""
        write(tmp_path)
        with open("/dev/full", "w") as full:
            code = subprocess.run(
                [sys.executable, "-m", "job", "run", "spec.json", "--run-id", "x", "--json"],
                cwd=tmp_path,
                env=environment(),
                stdout=full,
                timeout=300,
            ).returncode
        assert code == 0
        store = open_store(tmp_path / "runs")
        assert read_history(store, "small/x")[-1]["reason"] == "succeeded"

    @pytest.mark.parametrize(
        "arguments",
        [("--store", ""), ("--store", "s3:bucket"), ("--run-id", ""), ("--grace", "inf")],
    )
    def test_arguments_that_say_nothing(
        self,
        tmp_path: Path,
        arguments: tuple[str, str],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """An unset variable of a script, or a slip, is refused and writes nothing."""
        write(tmp_path)
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.iterdir())
        assert here(capsys, "run", "spec.json", *arguments)[:2] == (2, "")
        assert sorted(tmp_path.iterdir()) == before

    @pytest.mark.slow
    def test_a_fault_that_may_pass_leaves_the_run_open(
        self, tmp_path: Path, nursery: Nursery
    ) -> None:
        """What no rule foresaw fails the process, not the run: started again it goes on."""
        write(tmp_path, {"train.epochs": 6})
        plant(tmp_path, 'save = arguments[1]; save(); raise RuntimeError("ECC")', 1)
        first = job(tmp_path, "run", "spec.json", "--run-id", "x", PYTHONPATH=f"{tmp_path}:{ROOT}")
        assert first.returncode == 1
        assert "RuntimeError: ECC" in first.stderr
        store = ("--store", tmp_path / "runs")
        second = nursery.start("run", tmp_path / "spec.json", *store, "--resume", "x")
        assert second.wait() == 0, second.err

    @pytest.mark.parametrize(
        ("where", "value", "part"),
        [
            ("data.path", "a\0b.npz", "data.path"),
            ("data.path", "x" * 5000 + ".npz", "too long"),
            ("checkpoint.best_of", "", "$.checkpoint.best_of"),
            ("model.hidden", 2**31 - 1, "$.model.hidden"),
            ("train.threads", 2**31 - 1, "$.train.threads"),
        ],
    )
    def test_specs_that_validate_or_say_why(
        self,
        tmp_path: Path,
        where: str,
        value: object,
        part: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """`validate` reports a spec that cannot be run, in a line."""
        code, _, err = here(capsys, "validate", write(tmp_path, {where: value}))
        assert code == 2
        assert part in err

    @pytest.mark.slow
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_an_interrupted_comparison_leaves_nobody(
        self, tmp_path: Path, nursery: Nursery, number: signal.Signals
    ) -> None:
        """Any signal ends `compare` and its workers, long before their runs are over; two that can
        be caught are answered with a line, and nothing of Python's own is printed after it."""
        spec = write(tmp_path, {"train.epochs": 100_000})
        store, kept = tmp_path / "kept", ("--seeds", "2", "--workers", "1")
        process = nursery.start("compare", spec, *kept, "--store", store)
        until(lambda: any(store.glob("*/*/lease.json")) or process.code is not None)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        process.signal(number)
        code = process.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children.split()))
        if number == signal.SIGKILL:
            assert code == -number
        else:
            assert (code, process.err) == (75, "interrupted; the same command goes on\n")
