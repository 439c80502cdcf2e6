"""Searches as a user runs them: killed and resumed, failing, read by Optuna, judged on a test."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from job.compare.kept import train_to_end
from job.record.history import read_history
from job.record.lease import LeaseRecord
from job.record.result import Result
from job.record.run_index import RunIndexStore
from job.search.held_out import on_test
from job.search.journal import open_journal
from job.search.search import _started
from job.search.train_trial import Ended, EpochEnded, Order, _end, _Reports
from job.spec.read import parse_spec, read_spec
from job.store import Missing, Store, open_store
from tests.support.command import here, job, start
from tests.support.hold import handles
from tests.support.tiny_job import SMALL, write
from tests.support.warm_process import until

SPACE = {
    "optimizer.lr": {"low": 0.001, "high": 0.1, "log": True},
    "model.hidden": {"choices": [4, 8]},
}
TRIALS, EPOCHS = 3, 4
METRIC = '''\
import os
import signal
import time
from pathlib import Path

calls = 0


def waits(prediction, target):
    """Where HOLD leads: from the third call of a process on, waits while there is a file `hold`;
    with a file `kill`, the process is killed as by the kernel."""
    global calls
    calls += 1
    place = os.environ.get("HOLD")
    if place and Path(place, "kill").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if place and calls > 2:
        Path(place, f"reached-{os.getpid()}").touch()
        while Path(place, "hold").exists():
            time.sleep(0.005)
    return 0.0
'''


def job_of_two_tasks(folder: Path, edits: dict[str, Any] | None = None) -> Path:
    """Spec, data, space and metric; a test split, and two tasks whose skill can be told."""
    own = {"file": "metric.py", "name": "waits", "higher_is_better": True}
    level, down = SMALL["tasks"][1], SMALL["tasks"][2]
    spec = write(
        folder,
        {
            "tasks": [level | {"own_metrics": [own]}, down],
            "data.test": 0.2,
            "train.epochs": EPOCHS,
            "checkpoint.every_steps": 3,
        }
        | (edits or {}),
    )
    (folder / "metric.py").write_text(METRIC)
    (folder / "space.json").write_text(json.dumps(SPACE))
    return spec


def options(store: str, *more: str, trials: int = TRIALS) -> list[str]:
    """The command's arguments."""
    of = ["--space", "space.json", "--trials", str(trials), "--store", store, "--study", "s"]
    return ["search", "spec.json", *of, "--objective", "mean", "--pruner", "none", *more]


def trials_of(store: Store | str) -> list[FrozenTrial]:
    """The trials, as Optuna reads them."""
    return optuna.load_study(study_name="s", storage=open_journal(store, "small/s.journal")).trials


@dataclass(frozen=True)
class Searched:
    """A search that nothing disturbed."""

    folder: Path
    store: Store
    out: str
    err: str


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    folder = tmp_path_factory.mktemp("search")
    job_of_two_tasks(folder)
    done = job(folder, *options("runs"))
    assert done.returncode == 0, done.stderr
    return Searched(folder, open_store(folder / "runs"), done.stdout, done.stderr)


class Held:
    """Trials that wait in their second epoch until `free`."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place, self.seen = place, set[int]()
        place.mkdir()
        (place / "hold").touch()
        monkeypatch.setenv("HOLD", str(place))

    def next(self, search: subprocess.Popen[str]) -> int:
        """The pid of a trial that has begun to wait."""
        until(lambda: bool(self._new()) or search.poll() is not None)
        assert search.poll() is None, search.communicate()
        (pid,) = self._new()
        self.seen.add(pid)
        return pid

    def _new(self) -> set[int]:
        return {int(each.name[8:]) for each in self.place.glob("reached-*")} - self.seen

    def free(self) -> None:
        (self.place / "hold").unlink()


def gone(pid: int) -> bool:
    """True once a process has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def starts(store: Store) -> list[dict[str, Any]]:
    """The beginnings of trial 0 that are stored."""
    try:
        everything = read_history(store, "small/s-000", superseded=True)
    except Missing:
        return []
    return [event for event in everything if event["event"] == "run.started"]


def is_kept(store: Store) -> bool:
    """True once trial 0 has a checkpoint to go on from."""
    index = RunIndexStore(store, "small/s-000", fenced=False).read()
    return index is not None and bool(index.checkpoints)


@pytest.mark.slow
def test_killed_and_resumed(
    undisturbed: Searched, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL of the search, then of a trial: no trial is lost or repeated, each is a whole run
    that goes on from its checkpoint, and all has the values of a search that nothing disturbed."""
    job_of_two_tasks(tmp_path)
    held, store = Held(tmp_path / "held", monkeypatch), open_store(store_url)
    with start(tmp_path, *options(store_url)) as search:
        pid = held.next(search)
        until(lambda: len(starts(store)) == 1 and is_kept(store))
        search.kill()
        search.communicate()
    until(lambda: gone(pid))  # no trial outlives its search
    with start(tmp_path, *options(store_url)) as search:
        pid = held.next(search)
        lease = LeaseRecord.read(store, "small/s-000")
        assert lease is not None
        assert lease.process.startswith(f"{pid}@")
        until(lambda: len(starts(store)) == 2)
        os.kill(pid, signal.SIGKILL)
        held.next(search)
        held.free()
        out, err = search.communicate()
    assert search.returncode == 0, err
    assert "trial 0: its process was killed by SIGKILL; it goes on" in err
    facts = [(t.number, t.state, t.params, t.values) for t in trials_of(store)]
    before = trials_of(undisturbed.store)
    assert facts == [(t.number, t.state, t.params, t.values) for t in before]
    runs = {entry.key.split("/")[1] for entry in store.list("small/s-")}
    assert runs == {f"s-{n:03d}" for n in range(TRIALS)}
    for run in sorted(runs):
        history = read_history(store, f"small/{run}")
        ended = [e["epoch"] for e in history if e["event"] == "epoch"]
        assert ended == list(range(1, EPOCHS + 1))
        assert [e["event"] for e in history].count("run.finished") == 1
    assert [e.get("resumed_from", 0) > 0 for e in starts(store)] == [False, True, True]
    assert [line for line in out.splitlines() if "test split" in line] == [
        line for line in undisturbed.out.splitlines() if "test split" in line
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """SIGTERM, and a Ctrl-C, which goes to all processes of the terminal: the trial keeps a last
    checkpoint, the last line says how to go on; that does."""
    job_of_two_tasks(tmp_path)
    held, store = Held(tmp_path / "held", monkeypatch), open_store(tmp_path / "runs")
    arguments = options("runs", trials=1)
    with start(tmp_path, *arguments, apart=True) as search:
        pid = held.next(search)
        os.killpg(search.pid, number)
        until(lambda: not handles(pid, signal.SIGTERM))  # the trial has taken the signal
        held.free()
        _, err = search.communicate()
    assert search.returncode == 75, err
    assert "Traceback" not in err
    again = err.splitlines()[-1].partition("to go on: python -m job ")[2]
    assert again.split() == arguments
    (trial,) = trials_of(store)
    assert trial.state == TrialState.RUNNING
    done = job(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    (trial,) = trials_of(store)
    assert trial.state == TrialState.COMPLETE


@pytest.mark.slow
def test_failing_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial whose batches are larger than its data fails with its reason, and the search goes
    on; one whose process is killed again and again fails too, and if all do, so does the search."""
    job_of_two_tasks(tmp_path, {"train.epochs": 2})
    space = {"train.batch_size": {"choices": [8, 100]}, "optimizer.lr": SPACE["optimizer.lr"]}
    (tmp_path / "space.json").write_text(json.dumps(space))
    done = job(tmp_path, *options("runs", "--jobs", "2", trials=4))
    assert done.returncode == 0, done.stderr
    by_size = {t.params["train.batch_size"]: t.state for t in trials_of(str(tmp_path / "runs"))}
    assert by_size == {"8": TrialState.COMPLETE, "100": TrialState.FAIL}
    assert re.search(r"trial \d failed: \$\.train\.batch_size: found 100; ", done.stdout)
    held = Held(tmp_path / "held", monkeypatch)
    (held.place / "kill").touch()
    dead = job(tmp_path, *options("other", trials=1))
    assert dead.returncode == 1
    assert "trial 0 failed: its process was killed by SIGKILL 3 times" in dead.stdout


@pytest.mark.slow
def test_two_tasks_that_compete(tmp_path: Path) -> None:
    """One number between trunk and heads, two targets that have nothing in common: with either
    weighting one task wins. Both trials are the front, none is pruned; the written spec is that of
    the front's best mean, and it validates."""
    x = np.random.default_rng(0).normal(size=(200, 1, 2)).astype("f4")
    np.savez(tmp_path / "two.npz", features=x, east=3 * x[:, 0, :1], north=3 * x[:, 0, 1:])
    task = {
        "level": "window", "loss": {"kind": "mse"}, "transform": {"kind": "standardize"},
        "head": {"hidden": []},
    }  # fmt: skip
    weights = [{"east": 1.0, "north": 0.001}, {"east": 0.001, "north": 1.0}]
    balances = [{"kind": "fixed", "weights": each} for each in weights]
    spec = {
        "name": "two",
        "data": {"kind": "arrays", "path": "two.npz", "validation": 0.3, "test": 0.2},
        "model": {"kind": "lstm", "hidden": 1},
        "tasks": [{"name": "east", **task}, {"name": "north", **task}],
        "optimizer": {"lr": 0.05},
        "balance": balances[0],
        "train": {"epochs": 10, "batch_size": 16, "threads": 1, "device": "cpu"},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    (tmp_path / "space.json").write_text(json.dumps({"balance": {"choices": balances}}))
    done = job(tmp_path, "search", "spec.json", "--space", "space.json", "--trials", "4")
    assert done.returncode == 0, done.stderr
    assert "several objectives: no trial is pruned" in done.stderr
    storage = open_journal(str(tmp_path / "runs"), "two/space.journal")
    study = optuna.load_study(study_name="space", storage=storage)
    front = {trial.number: trial for trial in study.best_trials}
    assert {trial.params["balance"] for trial in front.values()} == {*map(json.dumps, balances)}
    table = done.stdout.partition("Pareto front")[2].partition("4 trials: 4 trained")[0]
    assert {int(n) for n in re.findall(r"^│ +(\d+) │", table, re.MULTILINE)} == {*front}
    best = max(front.values(), key=lambda trial: (sum(trial.values), -trial.number))
    written = tmp_path / f"spec.space-{best.number:03d}.json"
    assert (
        read_spec(written).balance
        == parse_spec(json.dumps(spec | {"balance": json.loads(best.params["balance"])})).balance
    )
    assert json.loads(written.with_suffix(".figures.json").read_text())["trial"] == best.number
    checked = job(tmp_path, "validate", written.name)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.slow
class TestResult:
    def test_the_best_spec_is_a_file(self, undisturbed: Searched) -> None:
        """It validates, is the best trial's, and lies with its figures beside the spec."""
        trials = trials_of(undisturbed.store)
        best = max(trials, key=lambda trial: trial.value or -1)
        path = undisturbed.folder / f"spec.s-{best.number:03d}.json"
        spec = read_spec(path)
        assert spec.optimizer.lr == best.params["optimizer.lr"]
        figures = json.loads(path.with_suffix(".figures.json").read_text())
        assert figures["trial"] == best.number
        assert figures["objectives"] == {"mean validation skill": best.value}
        result = Result.read(undisturbed.store, figures["run"])
        assert result is not None
        assert result.spec_hash == spec.content_hash()
        for task, skill in figures["validation_skill"].items():
            assert result.worth[task].skill == skill

    def test_what_it_says(self, undisturbed: Searched) -> None:
        """A line per trial on stderr; that the best one's number is too high to be expected, what
        the test says, and how to try other seeds, on stdout."""
        for n in range(TRIALS):
            assert f"{n + 1}/{TRIALS} trial {n}: level " in undisturbed.err
        text = undisturbed.out
        assert "as it was chosen by that number, expect less of it" in text
        assert "on the test split, by which nothing was chosen: level skill " in text
        assert f"{TRIALS} trials: {TRIALS} trained to the end" in text
        assert "python -m job compare spec.json spec.s-" in text

    def test_the_same_command_again(self, undisturbed: Searched) -> None:
        """Trains nothing, prints the same and overwrites nothing; a file of the best spec's name
        but with other content stays as it is."""
        store = undisturbed.store
        before = {entry.key: store.get(entry.key).data for entry in store.list()}
        mine = undisturbed.folder / "mine.json"
        mine.write_text("mine")
        done = job(undisturbed.folder, *options("runs", "--best", "mine.json"))
        assert (done.returncode, mine.read_text()) == (0, "mine")
        assert "mine.json was there already" in done.stdout
        assert {entry.key: store.get(entry.key).data for entry in store.list()} == before
        assert done.stdout.splitlines()[:4] == undisturbed.out.splitlines()[:4]

    def test_more_trials_and_still_the_same_best(self, undisturbed: Searched) -> None:
        """The figures beside the best spec, which count the trials, are written anew."""
        (figures,) = undisturbed.folder.glob("spec.*.figures.json")
        whole = figures.read_text()
        figures.write_text(whole.replace(f'"trials": {TRIALS}', '"trials": 1'))
        done = job(undisturbed.folder, *options("runs"))
        assert (done.returncode, figures.read_text()) == (0, whole), done.stderr

    def test_each_trial_is_a_run_like_any_other(self, undisturbed: Searched) -> None:
        """Its report is in its folder, and `job.export` works on it."""
        folder = undisturbed.folder
        assert (folder / "runs/small/s-001/report.html").is_file()
        exported = subprocess.run(
            [sys.executable, "-m", "job.export", "runs/small/s-001", "--to", "out", "--csv"],
            cwd=folder, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True, text=True,
        )  # fmt: skip
        assert exported.returncode == 0, exported.stderr
        assert any((folder / "out").iterdir())


class TestTrial:
    """A trial's process from within, without the process."""

    def test_it_reports_its_epochs(self, tmp_path: Path) -> None:
        """Skills after each epoch, and at its end those of the record, with their errors; asked
        to stop, it is an interrupted run that goes on."""
        spec = read_spec(job_of_two_tasks(tmp_path))
        order = Order(spec, "s-000", tmp_path, str(tmp_path / "runs"), one_thread=False)
        ours, its = Pipe()
        for _ in range(2):
            ours.send(False)
        ours.send(True)
        assert _end(order, _Reports(its)) == Ended("interrupted")
        for _ in range(EPOCHS):
            ours.send(False)
        end = _end(order, _Reports(its))
        messages = []
        while ours.poll():
            messages.append(ours.recv())
        assert [m.epoch for m in messages if isinstance(m, EpochEnded)] == [1, 2, 3, 4]
        assert end.how == "complete"
        assert end.skills == messages[-1].skills
        assert set(end.errors) == {"level", "down"}
        assert _end(order, _Reports(its)) == end  # it has ended: the record says the same

    def test_a_store_that_cannot_be_written(self, tmp_path: Path) -> None:
        """Is no fault of the trial."""
        spec = read_spec(path := job_of_two_tasks(tmp_path))
        end = _end(Order(spec, "s-000", tmp_path, str(path), False), _Reports(Pipe()[1]))
        assert end.how == "store_failed"
        assert end.why.startswith(f"{path} is no directory that can be written")

    @pytest.mark.slow
    def test_a_ctrl_c_while_its_process_starts(self, tmp_path: Path) -> None:
        """Is the search's alone, from the process's first moment."""
        spec = read_spec(path := job_of_two_tasks(tmp_path))
        process, connection = _started(Order(spec, "s-000", tmp_path, str(path), False))
        os.kill(process.pid or 0, signal.SIGINT)
        end = connection.recv()
        process.join()
        assert isinstance(end, Ended)
        assert end.how == "store_failed"


@pytest.mark.slow
def test_the_test_split_of_a_run_and_beside_another(tmp_path: Path) -> None:
    """Skills are what `job run` measures itself; a run gains nothing on itself; a gain is the loss
    in numpy below the other's; where the losses differ nothing is said."""
    path, store = job_of_two_tasks(tmp_path), open_store(tmp_path / "runs")
    done = job(tmp_path, "run", "spec.json", "--run-id", "whole", "--json")
    assert done.returncode == 0, done.stderr
    spec = read_spec(path)
    for name, each in {"a": spec, "b": _with_rate(spec, 0.03)}.items():
        train_to_end(store, name, each, tmp_path)
    a, b = (
        on_test(each, tmp_path, store, f"small/{name}")
        for name, each in {"a": spec, "b": _with_rate(spec, 0.03)}.items()
    )
    assert a is not None
    assert b is not None
    measured = Result.read(store, "small/whole")
    assert measured is not None
    for task, skill in a.skills.items():
        assert skill is not None
        assert (skill.value, skill.error) == (
            measured.test[task].skill, measured.test[task].skill_error,
        )  # fmt: skip
    assert all(gain[:2] == (0, 0) and not gain.certain for gain in a.gains(a).values())
    losses = [np.asarray(each.losses.original) for each in (b, a)]
    gains = [gain.value for gain in b.gains(a).values()]
    np.testing.assert_allclose(gains, 1 - losses[0] / losses[1], rtol=1e-6)
    other = spec.tasks[0].model_copy(update={"unit": "h"})
    b.spec.__dict__["tasks"] = (other, spec.tasks[1])
    assert list(b.gains(a)) == ["down"]


def _with_rate(spec: Any, lr: float) -> Any:
    return spec.model_copy(update={"optimizer": spec.optimizer.model_copy(update={"lr": lr})})


class TestFaults:
    """What is found before the first trial: exit code 2, one line."""

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--objective", "up"], "--objective: found up; it is mean, min or a task"),
            (["--study", "A b"], "--study A b: found another name; a study's name is of a-z"),
            (["--best", "no/best.json"], "--best no/best.json: found a folder that cannot be"),
        ],
    )
    def test_options(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        more: list[str],
        message: str,
    ) -> None:
        """An objective, a name, a place."""
        job_of_two_tasks(tmp_path)
        monkeypatch.chdir(tmp_path)
        code, _, err = here(capsys, *options("runs", *more))
        assert code == 2
        (line,) = err.splitlines()
        assert line.startswith(message)
        assert not (tmp_path / "runs").exists()

    def test_a_skill_that_the_split_cannot_tell(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Nine samples are too few of `kind`: no search could choose by it."""
        write(tmp_path)
        (tmp_path / "space.json").write_text(json.dumps(SPACE))
        monkeypatch.chdir(tmp_path)
        code, _, err = here(capsys, *options("runs"))
        assert code == 2
        assert err.startswith("--objective: found task kind; the validation split cannot tell")

    def test_without_optuna(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A line with what to install."""
        monkeypatch.setattr("job.cli.search.importlib.util.find_spec", lambda _: None)
        code, _, err = here(capsys, *options("runs"))
        rule, remedy = "job search needs it", "pip install 'evengrad[search]'"
        assert (code, err) == (2, f"optuna: found no such package; {rule}; {remedy}\n")
