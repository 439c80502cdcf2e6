"""The run index decides what counts of a run; if it is lost, it is rebuilt from the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from job.checkpoint.restore import restore
from job.checkpoint.writer import CheckpointInfo, CheckpointWriter
from job.record.claim import _sweep
from job.record.document import Damaged, Document, Fenced
from job.record.history import read_history
from job.record.recover_index import rebuild_index
from job.record.run_index import Kept, RunIndex, RunIndexStore, delete_checkpoint
from job.record.segments import EventUploader
from job.store import Store
from job.store.directory import DirectoryStore
from tests.support.fake_history import whole

RUN = "name/run"


def attempt(store: Store, epoch: int, seqs: range, steps: Sequence[int], keep: int = 3) -> None:
    """A process of that lease epoch: takes the index, stores events, publishes checkpoints."""
    document = RunIndexStore(store, RUN, fenced=True)
    found = document.read()
    index = found or RunIndex(epoch=epoch, spec_hash="hash")
    fences = dict.fromkeys(range(1, epoch), seqs.start - 1) | index.fences
    document.write(index.model_copy(update={"epoch": epoch, "fences": fences}))
    records = EventUploader(store, RUN, epoch, 60)
    for seq in seqs:
        event = {"seq": seq, "event": "step", "step": seq}
        records(event, json.dumps(whole(event)))
    tensors = {"model.w": torch.zeros(3)}
    writer = CheckpointWriter(
        store,
        RUN,
        document,
        tensors,
        keep=keep,
        verify=True,
        offline_seconds=10,
        store_events=records.flush,
        report=lambda *_: None,
    )
    for step in steps:
        facts = CheckpointInfo(step, 1, "hash", "0", next_seq=seqs.stop, score=step / 10)
        writer.take({"model.w": torch.full((3,), float(step))}, {}, facts)
        assert writer.settle(30), writer.failure
    writer.close()
    records.flush()


def index_of(store: Store) -> RunIndex:
    index = RunIndexStore(store, RUN, fenced=True).read()
    assert index is not None
    return index


def test_a_higher_epoch_is_not_overwritten(tmp_path: Path) -> None:
    """Whose epoch is lower is fenced, also where he has read the newest version."""
    store = DirectoryStore(tmp_path)
    document = RunIndexStore(store, RUN, fenced=True)
    document.write(RunIndex(epoch=3, spec_hash="hash"))
    with pytest.raises(Fenced, match="epoch is 3, this process's 2"):
        document.write(RunIndex(epoch=2, spec_hash="hash"))
    assert index_of(store).epoch == 3


def test_it_is_read_as_it_was_written(store: Store) -> None:
    """All that an index says comes back, and the object is plain versioned JSON."""
    kept = [Kept(folder=f"checkpoints/{s}-1", step=s, manifest="ab", score=None) for s in (4, 2)]
    index = RunIndex(
        epoch=2,
        spec_hash="hash",
        checkpoints=kept,
        best=kept[1],
        fences={1: 17},
        finished={"reason": "succeeded", "exit_code": 0},
    )
    RunIndexStore(store, RUN, fenced=True).write(index)
    assert index_of(store) == index
    assert index.named() == {"checkpoints/4-1", "checkpoints/2-1"}
    assert json.loads(store.get(f"{RUN}/latest.json").data)["schema"] == 1


def test_a_document_of_another_kind_is_no_head(tmp_path: Path) -> None:
    """A sealed document that lacks what an index says is refused, not guessed at."""
    store = DirectoryStore(tmp_path)
    Document(store, f"{RUN}/latest.json").write({"schema": 1})
    with pytest.raises(Damaged, match=r"latest\.json is damaged: epoch: Field required"):
        RunIndexStore(store, RUN, fenced=True).read()


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_it_is_rebuilt(tmp_path: Path, how: str) -> None:
    """Lost or damaged, it is made from the manifests: same checkpoints, and the same history."""
    store = DirectoryStore(tmp_path)
    attempt(store, 1, range(1, 6), [2, 4])
    attempt(store, 2, range(6, 9), [6])
    before, history = index_of(store), read_history(store, RUN)
    path = tmp_path / RUN / "latest.json"
    if how == "gone":
        path.unlink()
        assert RunIndexStore(store, RUN, fenced=True).read() is None
    else:
        path.write_bytes(path.read_bytes().replace(b"hash", b"hush"))
        with pytest.raises(Damaged):
            RunIndexStore(store, RUN, fenced=True).read()
    index = rebuild_index(store, RUN)
    assert index is not None
    assert index.checkpoints == before.checkpoints
    assert index.best == before.best
    assert (index.epoch, index.spec_hash) == (before.epoch, before.spec_hash)
    document = RunIndexStore(store, RUN, fenced=True)
    if how == "damaged":
        with pytest.raises(Damaged):
            document.read()
    document.write(index)
    assert read_history(store, RUN) == history
    found = restore(store, RUN, index, lambda *_: None)
    assert found is not None
    assert found.tensors["model.w"].tolist() == [6, 6, 6]


def test_a_damaged_manifest_is_left_out(tmp_path: Path) -> None:
    """Of several checkpoints those with an intact manifest are named; of none, it is an error."""
    store = DirectoryStore(tmp_path)
    attempt(store, 1, range(1, 6), [2, 4])
    (tmp_path / RUN / "latest.json").unlink()
    newest, oldest = (tmp_path / RUN / f"checkpoints/{s}-1/manifest.json" for s in (4, 2))
    newest.write_bytes(newest.read_bytes()[:-1])
    index = rebuild_index(store, RUN)
    assert index is not None
    assert [kept.step for kept in index.checkpoints] == [2]
    oldest.write_bytes(b"{}")
    with pytest.raises(Damaged, match="no checkpoint of run name/run has an intact manifest"):
        rebuild_index(store, RUN)


def test_files_without_a_manifest_are_no_checkpoint(tmp_path: Path) -> None:
    """An upload that was cut off before its manifest is not named by a rebuilt index."""
    store = DirectoryStore(tmp_path)
    attempt(store, 1, range(1, 6), [2, 4])
    (tmp_path / RUN / "latest.json").unlink()
    (tmp_path / RUN / "checkpoints/4-1/manifest.json").unlink()
    index = rebuild_index(store, RUN)
    assert index is not None
    assert [kept.step for kept in index.checkpoints] == [2]


def test_nothing_to_rebuild_from(tmp_path: Path) -> None:
    """A run that has no checkpoint has no index either: it begins."""
    assert rebuild_index(DirectoryStore(tmp_path), RUN) is None


def test_a_deletion_cut_off_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    """The manifest goes first; doing it again removes the rest."""
    store = DirectoryStore(tmp_path)
    attempt(store, 1, range(1, 3), [2])
    (tmp_path / RUN / "latest.json").unlink()
    keys: list[str] = []

    class Cut(DirectoryStore):
        def delete(self, key: str) -> None:
            if keys:
                raise InterruptedError
            keys.append(key)
            super().delete(key)

    with pytest.raises(InterruptedError):
        delete_checkpoint(Cut(tmp_path), RUN, "checkpoints/2-1")
    assert rebuild_index(store, RUN) is None
    delete_checkpoint(store, RUN, "checkpoints/2-1")
    assert not list(store.list(f"{RUN}/checkpoints/"))


def test_what_a_later_process_publishes_is_not_swept(tmp_path: Path) -> None:
    """A process that has lost the run without knowing removes what earlier ones left half done,
    and nothing that who took the run from it may have published."""
    store = DirectoryStore(tmp_path)
    attempt(store, 1, range(1, 6), [2, 4])
    for folder in ("checkpoints/5-1", "checkpoints/5-2", "checkpoints/6-3"):
        store.put(f"{RUN}/{folder}/model.safetensors", b"")
    document = RunIndexStore(store, RUN, fenced=True)
    document.read()
    _sweep(store, RUN, document.body, 2)
    left = {entry.key.split("/")[-2] for entry in store.list(f"{RUN}/checkpoints/")}
    assert left == {"2-1", "4-1", "5-2", "6-3"}
