"""Killed, twice at once, or of a run that trains meanwhile: no half output, and no lost one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from job.errors import InputError
from job.export.new_folder import new_folder
from job.predict import load
from job.record.run_index import Kept, RunIndexStore
from job.store import open_store
from tests.support.command import JOB, environment, start
from tests.support.finished import finish
from tests.support.tiny_job import write

LAST_LIMIT = 600
"""Seconds after which a test fails that waits for a process."""


@pytest.fixture(scope="module")
def large(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose prediction takes some seconds."""
    path = tmp_path_factory.mktemp("large") / "large.npz"
    features = np.load(small / "small.npz")["features"]
    np.savez(path, features=np.tile(features, (8000, 1, 1)))
    return path


def words(small: Path, large: Path, out: Path) -> list[str]:
    """A prediction of the large file."""
    of = ["--data", str(large), "-o", str(out)]
    return ["predict", str(small / "store/small/run"), *of]


def hidden(folder: Path) -> list[Path]:
    """The hidden files in a folder."""
    return [path for path in folder.iterdir() if path.name.startswith(".")]


@contextmanager
def in_the_middle(folder: Path, arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command that has written a part of its output, stopped until the end of the block."""
    process = subprocess.Popen(
        [*JOB, *arguments], cwd=folder, env=environment(), stderr=subprocess.PIPE
    )
    end = time.monotonic() + LAST_LIMIT
    while not any(path.stat().st_size for path in hidden(folder)):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield process
    finally:
        os.kill(process.pid, signal.SIGCONT)
        process.communicate(timeout=LAST_LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_killed_while_it_writes(small: Path, large: Path, tmp_path: Path, ending: str) -> None:
    """The output's name stays free; the next prediction into the folder removes what is left."""
    out = tmp_path / f"out.{ending}"
    with in_the_middle(tmp_path, words(small, large, out)) as process:
        assert not out.exists()
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    assert len(hidden(tmp_path)) == 1
    with start(tmp_path, *words(small, small / "small.npz", out)) as again:
        _, err = again.communicate(timeout=LAST_LIMIT)
    assert again.returncode == 0, err
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.slow
def test_two_at_once(small: Path, large: Path, tmp_path: Path) -> None:
    """The first that is done has the name, its file is whole; the other says so, and leaves it."""
    out = tmp_path / "out.parquet"
    with in_the_middle(tmp_path, words(small, large, out)) as slower:
        with start(tmp_path, *words(small, small / "small.npz", out)) as faster:
            _, err = faster.communicate(timeout=LAST_LIMIT)
        assert faster.returncode == 0, err
        before = out.read_bytes()
    assert slower.returncode == 2
    assert out.read_bytes() == before
    assert pq.read_table(out).num_rows == len(np.load(small / "small.npz")["features"])
    assert list(tmp_path.iterdir()) == [out]


# --- what a killed process leaves -----------------------------------------------------------------


def test_abandoned_folders(tmp_path: Path) -> None:
    """A hidden folder that nobody locks is removed; that of a process at work stays."""
    left = tmp_path / f".evengrad-folder.{'0' * 32}"
    (left / "deep").mkdir(parents=True)
    with new_folder(tmp_path / "one") as one:
        assert not left.exists()
        (one / "a.txt").write_text("a")
        with new_folder(tmp_path / "two"):
            assert one.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    assert (tmp_path / "one/a.txt").read_text() == "a"


def test_two_folders_of_one_name(tmp_path: Path) -> None:
    """The first that is done has the name; the other's is gone."""

    def write_one(of: str, meanwhile: Callable[[], None]) -> None:
        with new_folder(tmp_path / "x") as folder:
            (folder / "a.txt").write_text(of)
            meanwhile()

    with pytest.raises(InputError, match="nothing is overwritten"):
        write_one("slower", lambda: write_one("faster", lambda: None))
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x/a.txt").read_text() == "faster"


# --- a run that trains meanwhile ------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_a_checkpoint_that_is_deleted_meanwhile(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the index has another one by then, that one predicts."""
    place = finish(write(tmp_path, {"checkpoint": {"best_of": "level", "keep": 2}}))
    root, name, run_id = place.rsplit("/", 2)
    store = open_store(root)
    index = RunIndexStore(store, f"{name}/{run_id}", fenced=False)
    body = index.read()
    assert body is not None
    newest, older = body.checkpoints

    def publish_another(where: object, run: str, kept: Kept) -> object:
        monkeypatch.undo()
        index.write(body.model_copy(update={"checkpoints": [older], "best": older}))
        shutil.rmtree(f"{place}/{newest.folder}")
        return restore(where, run, kept)

    loading = import_module("job.predict.load")  # beside the function of that name
    restore = loading.restore_weights
    monkeypatch.setattr(loading, "restore_weights", publish_another)
    predictor = load(place, checkpoint=checkpoint)
    assert predictor.origin.kept == older


def has_a_checkpoint(run: Path) -> bool:
    index = RunIndexStore(open_store(str(run.parents[1])), f"small/{run.name}", fenced=False).read()
    return index is not None and index.best is not None


@pytest.mark.slow
def test_of_a_run_in_progress(tmp_path: Path) -> None:
    """While it publishes and deletes checkpoints, each prediction is of one of them, as a whole."""
    edits = {
        "train.epochs": 100_000,
        "checkpoint": {"every_steps": 1, "keep": 1, "best_of": "level"},
        "log": {"every": 1000, "audit_every": 0},
    }
    spec, run = write(tmp_path, edits), tmp_path / "store/small/run"
    features = np.load(tmp_path / "small.npz")["features"]
    end, steps = time.monotonic() + LAST_LIMIT, dict[str, set[int]](best=set(), last=set())
    words = ["run", str(spec), "--store", "store", "--run-id", "run"]
    with subprocess.Popen(
        [*JOB, *words], cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL
    ) as process:
        try:
            while not has_a_checkpoint(run):
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.05)
            while len(steps["last"]) < 10:
                assert time.monotonic() < end
                for checkpoint, seen in steps.items():
                    predictor = load(run, checkpoint=checkpoint)
                    assert "run small/run is not finished" in predictor.notes
                    assert np.isfinite(predictor.predict(features)["level"].values).all()
                    seen.add(predictor.origin.kept.step)
        finally:
            process.kill()
