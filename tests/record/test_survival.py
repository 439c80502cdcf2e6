"""What a user's machine and a user's hands do to a run: it survives, and destroys nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from job.record.document import seal, unseal
from job.record.manifest import Manifest
from job.record.run_index import RunIndexStore
from job.store import open_store
from tests.support.faulty_proxy import Proxy
from tests.support.runs import QUICK, SPEC, Run, Undisturbed, assert_undisturbed
from tests.support.tiny_job import write
from tests.support.warm_process import Nursery, until

ENDLESS = SPEC | {"train.epochs": 100_000, "checkpoint.lease_seconds": 1}


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB, for a temporary folder that fills."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte free."""
    with suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))


class TestFullTemporaryFolder:
    @pytest.mark.slow
    def test_with_the_store(
        self, nursery: Nursery, undisturbed: Undisturbed, tiny: Path, tmp_path: Path
    ) -> None:
        """A temporary folder that fills while a run trains is not noticed by a run whose store
        answers: no alarm, and it ends undisturbed."""
        run = Run(nursery, undisturbed.spec, str(tmp_path / "store"))
        process, hold = run.start_held(3, patches={"tempfile:tempdir": str(tiny)})
        hold.until_reached()
        fill(tiny)
        hold.release()
        assert process.wait() == 0, process.err
        assert process.err == ""
        assert not {kind for kind in run.alarms() if kind.startswith("spool")}
        assert_undisturbed(run, undisturbed)

    @pytest.mark.slow
    def test_in_an_outage(
        self, nursery: Nursery, undisturbed: Undisturbed, proxy: Proxy, s3_url: str, tiny: Path
    ) -> None:
        """With the store out of reach too, an alarm says that events wait in memory; training goes
        on, and when the store is back everything arrives and the run ends undisturbed."""
        fill(tiny)
        run = Run(nursery, undisturbed.spec, s3_url)
        process, hold = run.start_held(10, patches=QUICK | {"tempfile:tempdir": str(tiny)})
        hold.until_reached()
        proxy.refuse()
        hold.release()
        until(lambda: "spool_unwritable" in process.out)
        assert process.code is None
        proxy.accept()
        assert process.wait() == 0, process.err
        assert f"{tiny}/" in run.alarms()["spool_unwritable"]
        assert "No space left on device" in run.alarms()["spool_unwritable"]
        assert_undisturbed(run, undisturbed)

    @pytest.mark.slow
    def test_in_an_outage_beyond_the_bound(
        self, nursery: Nursery, proxy: Proxy, s3_url: str, tiny: Path, tmp_path: Path
    ) -> None:
        """It ends as any outage does, with one line that says what could not be kept and why."""
        fill(tiny)
        spec = write(tmp_path / "job", ENDLESS | {"checkpoint.offline_minutes": 2 / 60})
        run = Run(nursery, spec, s3_url)
        process = run.start(patches=QUICK | {"tempfile:tempdir": str(tiny)})
        until(lambda: "checkpoint.saved" in process.out)
        proxy.refuse()
        assert process.wait() == 1
        # Events or a checkpoint, whichever has waited longer, give up first.
        ended = [event for event in process.events if event["event"] == "run.finished"]
        assert [event["reason"] for event in ended] == ["upload_failed"]
        assert process.err.count("\n") == 1
        assert "the state was not kept: " in process.err
        assert "No space left on device" in process.err


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def plant_foreign(run: Run) -> dict[Path, bytes]:
    """Put among a run's objects what a user may: notes, copies, half copies; what is in them."""
    folder = Path(run.url, run.key)
    kept = next(folder.glob("checkpoints/*-1"))
    segment = next((folder / "events").iterdir())
    planted = [
        folder / "notes.txt",
        folder / "checkpoints/notes.txt",
        folder / "checkpoints/my-backup-1/model.safetensors",
        folder / "checkpoints/007-1/manifest.json",
        folder / "checkpoints" / kept.name / "copy of model.safetensors",
        folder / "checkpoints/old" / kept.name / "manifest.json",
        folder / "events" / f"{segment.name}.bak",
        folder / "events/old" / segment.name,
    ]
    for path in planted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    copy = folder / "checkpoints/my-backup-2"
    shutil.copytree(kept, copy)
    shutil.copy(segment, folder / "events/old" / segment.name)
    planted += list(copy.iterdir())
    return {path: path.read_bytes() for path in planted}


@pytest.mark.slow
@pytest.mark.parametrize("index", ["whole", "gone"])
def test_foreign_names(
    nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path, index: str
) -> None:
    """Objects that no run writes are neither read nor swept, at a resume and where the index is
    rebuilt; one alarm names them, and the run ends undisturbed."""
    run = Run(nursery, undisturbed.spec, str(tmp_path / "store")).interrupted(16)
    planted = plant_foreign(run)
    if index == "gone":
        Path(run.url, run.key, "latest.json").unlink()
    process = run.start()
    assert process.wait() == 0, process.err
    assert process.events[0]["resumed_from"] >= 16
    alarms = [e for e in process.events if e["event"] == "alarm" and e["kind"] == "foreign_objects"]
    assert len(alarms) == 1
    assert "checkpoints/007-1/manifest.json" in alarms[0]["message"]
    assert f"and {len(planted) - 5} more" in alarms[0]["message"]
    assert {path: path.read_bytes() for path in planted} == planted
    assert run.end() == undisturbed.end


@pytest.mark.slow
@pytest.mark.parametrize("store_url", ["directory", "s3"], indirect=True)
def test_a_run_that_was_removed(
    nursery: Nursery, undisturbed: Undisturbed, store_url: str, tmp_path: Path
) -> None:
    """A run whose folder is removed, or whose bucket is emptied, while it trains ends with 1 and
    one line: it says so, names no other process, and says where the state lies. That state is
    whole. The run id is free again: started anew, it ends undisturbed."""
    run = Run(nursery, write(tmp_path / "job", ENDLESS), store_url)
    process = run.start(patches={"tempfile:tempdir": str(tmp_path)})
    until(lambda: "checkpoint.saved" in process.out)

    def removed() -> bool:
        if store_url.startswith("s3://"):
            store = open_store(store_url)
            for entry in store.list():
                store.delete(entry.key)
        else:
            shutil.rmtree(run.url, ignore_errors=True)
        return process.code is not None

    until(removed, pause=0.1)
    assert process.wait() == 1
    assert process.err.count("\n") == 1
    assert f"{run.key}/" in process.err
    assert "has vanished: the run's folder was removed, or the store was emptied" in process.err
    assert "another process" not in process.err
    words = process.err.partition("that were not stored lie in ")[2]
    place = Path(words.partition(";")[0])
    assert place.is_relative_to(tmp_path)
    manifest = Manifest.parse(unseal((place / "checkpoint/manifest.json").read_bytes(), ""), "")
    for file, facts in manifest.files.items():
        assert (place / "checkpoint" / file).stat().st_size == facts.size
    assert f"its state at step {manifest.step} " in process.err
    kept = snapshot(place)

    again = Run(nursery, undisturbed.spec, store_url)
    process = again.start(patches={"tempfile:tempdir": str(tmp_path)})
    assert process.wait() == 0, process.err
    assert "resumed_from" not in process.events[0]
    assert_undisturbed(again, undisturbed)
    assert snapshot(place) == kept


def test_the_next_start_of_a_finished_run_sweeps(
    nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """A whole checkpoint that a process left after it was taken over goes at the next start, even
    of a finished run; what the index names stays, and so does what others put there."""
    shutil.copytree(undisturbed.spec.parent / "store", tmp_path / "store")
    run = Run(nursery, undisturbed.spec, str(tmp_path / "store"))
    folder = Path(run.url, run.key, "checkpoints")
    named = sorted(path.name for path in folder.iterdir())
    shutil.copytree(folder / named[0], folder / "5-1")
    (folder / "6-1").mkdir()
    (folder / "6-1/model.safetensors").write_bytes(b"half")
    shutil.copytree(folder / named[0], folder / "my-backup-1")
    process = run.start()
    assert process.wait() == 0
    assert "has finished" in process.err
    assert sorted(path.name for path in folder.iterdir()) == sorted([*named, "my-backup-1"])


def test_a_finished_run_without_any_intact_document_but_its_result(
    nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """It is finished: nothing is trained, and nothing is deleted."""
    shutil.copytree(undisturbed.spec.parent / "store", tmp_path / "store")
    run = Run(nursery, undisturbed.spec, str(tmp_path / "store"))
    folder = Path(run.url, run.key)
    for path in [folder / "latest.json", *folder.glob("checkpoints/*/manifest.json")]:
        path.write_bytes(b"{}")
    before = snapshot(folder)
    process = run.start()
    assert process.wait() == 0
    assert "has finished; its exit code was 0" in process.err
    assert process.out == ""
    assert snapshot(folder) == before


@pytest.mark.slow
def test_a_lease_epoch_of_a_billion(
    nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """A lease that says so, damaged or planted, costs neither time nor memory: the run goes on
    above it and ends undisturbed, and its index stays small."""
    run = Run(nursery, undisturbed.spec, str(tmp_path / "store")).interrupted(16)
    lease = {"schema": 1, "epoch": 10**9, "machine": "m", "process": "1@1", "seconds": 1.0,
             "beats": 0, "released": True}  # fmt: skip
    Path(run.url, run.key, "lease.json").write_bytes(seal(lease))
    process = run.start()
    assert process.wait() == 0, process.err
    index = RunIndexStore(run.store, run.key, fenced=False).read()
    assert index is not None
    assert index.epoch == 10**9 + 1
    assert len(index.fences) <= 2
    assert os.path.getsize(Path(run.url, run.key, "latest.json")) < 10_000
    assert_undisturbed(run, undisturbed)
