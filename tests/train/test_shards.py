"""Training on shards: the bits of a run in memory, its resume, its ranks, and how much it holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from job.data.shards.read_ahead import read_ahead
from job.data.shards.rows import Files, Rows
from job.distributed.ranks import ALONE, Ranks
from job.train.evaluate import batches, evaluate, evenly_spaced
from job.train.trainer import Trainer
from tests.support.command import ROOT
from tests.support.shards import FORMATS, write_shards
from tests.support.tiny_job import State, Trained, job, write
from tests.support.two_ranks import Pair, pair, train
from tests.train.test_trainer import assert_same, untimed

CPU = torch.device("cpu")
RICH: dict[str, Any] = {
    "train.epochs": 3,
    "train.clip": 0.5,
    "optimizer.lr": 0.02,
    "checkpoint.every_steps": 1,
    "data.scale": "standardize",
    "data.split": "random",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small job's data as a file, and as shards in every format."""
    top = tmp_path_factory.mktemp("shards")
    write(top)
    arrays = dict(np.load(top / "small.npz"))
    for form in FORMATS:
        write_shards(top / form, arrays, form, cuts=(0, 5, 6, 30, len(arrays["features"])))
    return top


@pytest.fixture(autouse=True)
def cached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is beside the data."""
    monkeypatch.setenv("EVENGRAD_CACHE", str(folder / "cache"))


@pytest.fixture(scope="module")
def in_memory(folder: Path) -> Trained:
    """A run on the file."""
    trained = Trained(*job(folder, RICH))
    assert trained.run()
    return trained


@pytest.mark.parametrize("form", FORMATS)
def test_shards_train_like_a_file(folder: Path, in_memory: Trained, form: str) -> None:
    """Every event, and the state after every step, are those of the run in memory, bit for bit."""
    trained = Trained(*job(folder, RICH | {"data.path": f"{form}/"}))
    assert trained.run()
    assert untimed(trained.events) == untimed(in_memory.events)
    assert len(trained.saved) == len(in_memory.saved) == 15
    for one, other in zip(trained.saved, in_memory.saved, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("stops", [[3], [7, 8], [5, 12]], ids=str)
def test_interruptions_leave_no_trace(folder: Path, in_memory: Trained, stops: list[int]) -> None:
    """Stopped in mid-epoch and begun anew, a run ends as it would have, and leaves no thread."""
    spec, data = job(folder, RICH | {"data.path": "npy/"})
    attempt, events = Trained(spec, data), list[Any]()
    for stop in stops:
        assert not attempt.run(stop_at=stop)
        assert not [t for t in threading.enumerate() if t.name == "read-ahead"]
        events += attempt.events
        state = State(attempt.training)
        attempt = Trained(spec, job(folder, RICH | {"data.path": "npy/"})[1])
        torch.manual_seed(stop)
        state.into(attempt.training)
    assert attempt.run()
    assert untimed(events + attempt.events) == untimed(in_memory.events)
    assert_same(State(attempt.training), State(in_memory.training))


def test_copies_on_disk_raise_the_alarm(tmp_path: Path) -> None:
    """Validation samples that copy training samples are found without loading them."""
    write(tmp_path)
    arrays = {
        name: x[np.arange(len(x)) // 2] for name, x in np.load(tmp_path / "small.npz").items()
    }
    write_shards(tmp_path / "twice", arrays, "npy", cuts=(0, 20, 45))
    trained = Trained(*job(tmp_path, {"data.path": "twice/", "data.split": "random"}))
    trained.run(stop_at=1)
    assert "copied_samples" in {e.kind for e in trained.events if e.event == "alarm"}


# --- ranks --------------------------------------------------------------------------------------


def rows_read(ranks: Ranks, folder: Path, part: str) -> list[int]:
    """The rows of the files that this rank reads in an epoch, or in the evaluation after it."""
    spec, data = job(folder, RICH | {"data.path": "npy/"})
    training = Trainer(spec, data, ranks)
    read: list[int] = []
    honest = Rows.read

    def read_counted(self: Rows, rows: Any) -> Any:
        read.extend(rows.tolist())
        return honest(self, rows)

    Rows.read = read_counted  # type: ignore[method-assign]
    try:
        if part == "epoch":
            for _ in training._rest_of_epoch():
                pass
        else:
            split = data.validation
            evaluate(training.stepper.model, training.losses, split, CPU, ranks=ranks)
    finally:
        Rows.read = honest  # type: ignore[method-assign]
    return read


@pytest.fixture(scope="module")
def two() -> Iterator[Pair]:
    """Two ranks."""
    with pair() as made:
        yield made


@pytest.mark.slow
def test_ranks_read_their_own_rows(two: Pair, folder: Path) -> None:
    """Each row is read by one rank, once, in training and in evaluation; the ranks train as one."""
    for part in ("epoch", "evaluation"):
        alone = rows_read(ALONE, folder, part)
        first, second = two.both(rows_read, folder, part)
        assert len(alone) == len(set(alone))
        assert sorted(first + second) == sorted(alone)
        assert abs(len(first) - len(second)) <= 5  # a row a batch
    edits = RICH | {"data.path": "npy/"}
    one, other = two.both(train, folder, edits), two.both(train, folder, RICH)
    for mine, theirs in zip(one, other, strict=True):
        assert untimed(mine.events) == untimed(theirs.events)
        assert_same(mine.end, theirs.end)


@pytest.mark.slow
def test_a_dataset_is_sent_without_its_rows(folder: Path, two: Pair) -> None:
    """Rank 0's data arrive at the others as paths, and are read there."""
    data = job(folder, RICH | {"data.path": "npy/"})[1]
    first, second = two.both(sent, folder)
    assert first == second == float(data.train.inputs["features"][:].double().sum())


def sent(ranks: Ranks, folder: Path) -> float:
    """The sum of the training features, of data that rank 0 has read."""
    data = job(folder, RICH | {"data.path": "npy/"})[1] if ranks.rank == 0 else None
    data = ranks.broadcast(data)
    assert data is not None
    return float(data.train.inputs["features"][:].double().sum())


# --- reading ahead ------------------------------------------------------------------------------


def test_values_come_in_their_order() -> None:
    """All of them, as they would without the thread."""
    assert list(read_ahead(iter(range(50)), CPU)) == list(range(50))
    assert not list(read_ahead(iter(()), CPU))


def test_an_error_reaches_the_trainer() -> None:
    """What came before it is delivered, then it is raised as it is."""

    def failing() -> Iterator[int]:
        yield 1
        raise OSError(5, "Input/output error", "features-00000.npy")

    got: list[int] = []
    with pytest.raises(OSError, match="Input/output error"):
        got.extend(read_ahead(failing(), CPU))
    ahead = read_ahead(failing(), CPU)
    assert next(ahead) == 1
    with pytest.raises(OSError, match="features-00000"):
        next(ahead)


def test_a_shard_that_vanishes_is_named(folder: Path, tmp_path: Path) -> None:
    """A file that is gone when it is first read ends the run with its name."""
    write_shards(tmp_path, dict(np.load(folder / "small.npz")), "npy", cuts=(0, 20, 45))
    spec, data = job(folder, RICH | {"data.path": str(tmp_path)})
    training = Trainer(spec, data)
    for split in (data.train, data.validation):
        for rows in split.on_disk.values():
            rows.files = Files()
    (tmp_path / "features-00001.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"features-00001\.npy"):
        list(training._rest_of_epoch())


def test_a_shard_that_is_cut_off_is_named(folder: Path, tmp_path: Path) -> None:
    """A file that loses its end while a run reads it ends the run with its name, and no signal."""
    write_shards(tmp_path, dict(np.load(folder / "small.npz")), "npy", cuts=(0, 20, 45))
    spec, data = job(folder, RICH | {"data.path": str(tmp_path)})
    training = Trainer(spec, data)
    os.truncate(tmp_path / "features-00001.npy", 500)
    with pytest.raises(OSError, match=r"the file was cut off.*features-00001\.npy"):
        list(training._rest_of_epoch())


def test_a_few_values_are_read_ahead() -> None:
    """Not the whole epoch; closed, the thread ends at once although nobody takes its values."""
    made: list[int] = []

    def values() -> Iterator[int]:
        for k in range(1000):
            made.append(k)
            yield k

    ahead = read_ahead(values(), CPU)
    assert next(ahead) == 0
    ahead.close()
    assert len(made) <= 5
    assert not [t for t in threading.enumerate() if t.name == "read-ahead"]


def test_the_generator_of_torch_is_left_alone(folder: Path) -> None:
    """Reading ahead draws nothing, so that dropout has the same numbers."""
    spec, data = job(folder, RICH | {"data.path": "npy/"})
    losses = Trainer(spec, data).losses
    before = torch.get_rng_state()
    list(batches(data.train, evenly_spaced(len(data.train), 30), 7, losses, CPU))
    assert torch.equal(torch.get_rng_state(), before)


# --- memory -------------------------------------------------------------------------------------

HELD = """
import json, sys
from pathlib import Path
from job.data.dataset import load
from job.spec.read import parse_spec
from job.train.trainer import Trainer

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

spec = parse_spec(sys.argv[1])
training = Trainer(spec, load(spec, Path(sys.argv[2])))
own = []
training.run(lambda event: own.append(memory("RssAnon")), lambda: None, lambda: False)
assert training.finished
print(json.dumps([max(own), memory("VmHWM")]))
"""
"""Prints the most MB that a run holds by itself, and in all."""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """A run on 1.5 GB takes less than 300 MB more than one on a sixtieth of it, caches included."""
    each, shape = 12_000, (64, 61)
    large, small = tmp_path / "large", tmp_path / "small"
    x = np.random.default_rng(0).standard_normal((each, *shape), dtype="f4")
    for folder, count, rows in ((large, 8, each), (small, 1, each * 8 // 60)):
        folder.mkdir()
        for k in range(count):
            x += 1  # no copies
            np.save(folder / f"features-{k}.npy", x[:rows])
            np.save(folder / f"level-{k}.npy", x[:rows, 0, 0])
    assert sum(path.stat().st_size for path in large.iterdir()) > 1.49e9
    spec = {
        "name": "large",
        "data": {"kind": "arrays", "path": "./"},
        "model": {"kind": "mlp", "hidden": [4]},
        "tasks": [{"name": "level", "level": "window", "loss": {"kind": "mse"}}],
        "train": {"epochs": 1, "batch_size": 256, "device": "cpu", "threads": 1},
    }
    (own, most), (own_of_small, most_of_small) = (
        json.loads(
            subprocess.run(
                [sys.executable, "-c", HELD, json.dumps(spec), str(folder)],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for folder in (large, small)
    )
    assert own - own_of_small < 300
    assert most - most_of_small < 300
