"""A flipped bit, a cut or a missing object of a stored run is detected, reported and survived."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from job.record.document import Damaged
from job.record.history import read_document
from job.record.run_index import RunIndexStore
from tests.support.runs import Run, Undisturbed, assert_undisturbed
from tests.support.warm_process import Nursery

CHECKPOINT = ("model.safetensors", "state.safetensors", "manifest.json")

Damage = Callable[[Path, random.Random], None]


def flip(path: Path, moments: random.Random) -> None:
    """One bit."""
    data = bytearray(path.read_bytes())
    data[moments.randrange(len(data))] ^= 1 << moments.randrange(8)
    path.write_bytes(data)


def cut(path: Path, moments: random.Random) -> None:
    """The end is missing."""
    data = path.read_bytes()
    path.write_bytes(data[: moments.randrange(len(data))])


def remove(path: Path, _: random.Random) -> None:
    path.unlink()


SLOW = pytest.mark.slow
DAMAGES = pytest.mark.parametrize(
    "damage", [flip, pytest.param(cut, marks=SLOW), pytest.param(remove, marks=SLOW)]
)
SEEDS = pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=SLOW) for n in (1, 2, 3))])


class Stored:
    """A run in a directory, interrupted twice, of which copies may be spoilt."""

    def __init__(self, nursery: Nursery, reference: Undisturbed, folder: Path) -> None:
        self.run = Run(nursery, reference.spec, str(folder))
        for step in (4, 16):
            self.run.interrupted(step)
        index = RunIndexStore(self.run.store, self.run.key, fenced=False).read()
        assert index is not None
        self.newest, self.older = index.checkpoints

    def copy(self, folder: Path) -> Run:
        shutil.copytree(self.run.url, folder)
        return Run(self.run.nursery, self.run.spec, str(folder))


@pytest.fixture(scope="module")
def stored(
    warm: Nursery, undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory
) -> Stored:
    return Stored(warm, undisturbed, tmp_path_factory.mktemp("stored") / "store")


@SEEDS
@pytest.mark.parametrize("file", CHECKPOINT)
@DAMAGES
def test_newest_checkpoint(
    stored: Stored,
    nursery: Nursery,
    undisturbed: Undisturbed,
    tmp_path: Path,
    damage: Damage,
    file: str,
    seed: int,
) -> None:
    """If any file of the newest checkpoint is damaged, the run goes on from the checkpoint before,
    says which was damaged, and ends undisturbed."""
    run = stored.copy(tmp_path / "store")
    damage(Path(run.url, run.key, stored.newest.folder, file), random.Random(seed))
    process = run.start()
    assert process.wait() == 0, process.err
    assert process.events[0]["resumed_from"] == stored.older.step
    assert f"{stored.newest.folder}/{file}" in run.alarms()["checkpoint_damaged"]
    assert_undisturbed(run, undisturbed)


@SLOW
@DAMAGES
def test_damaged_twice(
    stored: Stored, nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path, damage: Damage
) -> None:
    """After a damaged checkpoint was gone around, another interruption does not lead back to it."""
    run = stored.copy(tmp_path / "store")
    damage(Path(run.url, run.key, stored.newest.folder, "state.safetensors"), random.Random(0))
    assert "checkpoint_damaged" in run.interrupted(stored.older.step).alarms()
    again = run.start()
    assert again.wait() == 0
    assert again.events[0]["resumed_from"] > stored.older.step
    assert "checkpoint_damaged" not in again.out
    assert_undisturbed(run, undisturbed)


@pytest.mark.slow
def test_no_checkpoint_left(
    stored: Stored, nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """With every checkpoint damaged the run ends with 1 and names them; it neither starts from
    scratch nor deletes anything, so that a copy put back lets it go on."""
    run = stored.copy(tmp_path / "store")
    folders = [Path(run.url, run.key, kept.folder) for kept in (stored.newest, stored.older)]
    whole = folders[0].joinpath("model.safetensors").read_bytes()
    for folder in folders:
        flip(folder / "model.safetensors", random.Random(1))
    for _ in range(2):
        process = run.start()
        assert process.wait() == 1
        assert f"no checkpoint of run {run.key} is intact; tried" in process.err
        assert all(f"checkpoints/{folder.name}" in process.err for folder in folders)
        assert '"event":"step"' not in process.out
    assert run.named == {stored.newest.folder, stored.older.folder}
    folders[0].joinpath("model.safetensors").write_bytes(whole)
    process = run.start()
    assert process.wait() == 0
    assert process.events[0]["resumed_from"] == stored.newest.step
    assert_undisturbed(run, undisturbed)


@SEEDS
@DAMAGES
def test_index(
    stored: Stored,
    nursery: Nursery,
    undisturbed: Undisturbed,
    tmp_path: Path,
    damage: Damage,
    seed: int,
) -> None:
    """An index that is damaged or gone is rebuilt from the checkpoints, and an alarm says so."""
    run = stored.copy(tmp_path / "store")
    damage(Path(run.url, run.key, "latest.json"), random.Random(seed))
    process = run.start()
    assert process.wait() == 0, process.err
    assert process.events[0]["resumed_from"] == stored.newest.step
    assert "latest.json is" in run.alarms()["head_rebuilt"]
    assert_undisturbed(run, undisturbed)


def test_index_and_manifests(stored: Stored, nursery: Nursery, tmp_path: Path) -> None:
    """With the index gone and no manifest intact the run is refused, and nothing is deleted."""
    run = stored.copy(tmp_path / "store")
    folder = Path(run.url, run.key)
    remove(folder / "latest.json", random.Random(0))
    for kept in (stored.newest, stored.older):
        flip(folder / kept.folder / "manifest.json", random.Random(0))
    before = sorted(path.name for path in folder.rglob("*.safetensors"))
    process = run.start()
    assert process.wait() == 1
    assert process.err == f"evengrad: no checkpoint of run {run.key} has an intact manifest\n"
    assert sorted(path.name for path in folder.rglob("*.safetensors")) == before


@SEEDS
@pytest.mark.parametrize("file", ["lease.json", "status.json", "spec.json"])
@DAMAGES
def test_documents(
    stored: Stored,
    nursery: Nursery,
    undisturbed: Undisturbed,
    tmp_path: Path,
    damage: Damage,
    file: str,
    seed: int,
) -> None:
    """A damaged lease, status or spec is replaced by the next process; the run ends undisturbed."""
    run = stored.copy(tmp_path / "store")
    path = Path(run.url, run.key, file)
    spec = Path(run.url, run.key, "spec.json").read_bytes()
    damage(path, random.Random(seed))
    if file != "spec.json" and damage is not remove:
        with pytest.raises(Damaged, match=file):
            read_document(run.store, run.key, file)
    process = run.start()
    assert process.wait() == 0, process.err
    assert process.events[0]["resumed_from"] == stored.newest.step
    if file == "spec.json":
        assert path.read_bytes() == spec
        assert "written anew" in run.alarms()["spec_damaged"]
    else:
        assert read_document(run.store, run.key, file) is not None
    assert_undisturbed(run, undisturbed)


@SEEDS
@DAMAGES
def test_events(
    stored: Stored,
    nursery: Nursery,
    undisturbed: Undisturbed,
    tmp_path: Path,
    damage: Damage,
    seed: int,
) -> None:
    """A damaged or missing segment of events is never read over; the run itself goes on, with an
    alarm where events are missing, and ends in the same weights."""
    run = stored.copy(tmp_path / "store")
    path = random.Random(seed).choice(sorted(Path(run.url, run.key, "events").iterdir())[:-1])
    damage(path, random.Random(seed))
    with pytest.raises(Damaged, match=r"missing before|is damaged"):
        run.history()
    process = run.start()
    assert process.wait() == 0, process.err
    assert ("events_missing" in process.out) == (damage is remove)
    with pytest.raises(Damaged, match=r"missing before|is damaged"):
        run.history()
    result = run.result()
    assert result is not None
    for file, whole in (("model", undisturbed.end.model), ("state", undisturbed.end.state)):
        path = Path(run.url, run.key, result["checkpoint"], f"{file}.safetensors")
        assert path.read_bytes() == whole


@pytest.mark.parametrize("file", ["result.json", "latest.json"])
@DAMAGES
def test_finished_run(
    nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path, damage: Damage, file: str
) -> None:
    """A finished run whose result or index is damaged gets it back when it is started again, and
    trains nothing."""
    origin = undisturbed.spec.parent / "store"
    shutil.copytree(origin, tmp_path / "store")
    run = Run(nursery, undisturbed.spec, str(tmp_path / "store"))
    before = json.loads(Path(run.url, run.key, "result.json").read_bytes())
    damage(Path(run.url, run.key, file), random.Random(0))
    if file == "result.json" and damage is not remove:
        with pytest.raises(Damaged, match=r"result\.json is damaged"):
            run.result()
    process = run.start()
    assert process.wait() == 0, process.err
    assert '"event":"step"' not in process.out
    result = run.result()
    assert result is not None
    assert (result["checkpoint"], result["steps"]) == (before["checkpoint"], before["steps"])
    assert_undisturbed(run, undisturbed)
