"""A run keeps the code of one's own that it was begun with."""

from __future__ import annotations

from pathlib import Path

from job.record.layout import is_ours
from job.record.own_code import keep_code, kept_code
from job.spec.read import read_spec
from job.store import open_store
from tests.support.own_networks import BLOCKS, SOUND, place
from tests.support.tiny_job import write


def test_what_ran_stays(tmp_path: Path) -> None:
    """Each file is stored once, under a name that runs give, and comes back as it was, whatever
    became of the file; one that was damaged in the store does not."""
    path = place(tmp_path, *SOUND["conv"])
    store, spec = open_store(str(tmp_path / "store")), read_spec(path)
    keep_code(store, "small/r", spec, tmp_path)
    before = [(entry.key, entry.size) for entry in store.list("small/r/")]
    keep_code(store, "small/r", spec, tmp_path)
    assert [(entry.key, entry.size) for entry in store.list("small/r/")] == before
    assert len(before) == 2
    assert all(is_ours(key.removeprefix("small/r/")) for key, _ in before)
    (tmp_path / "network.py").write_text("1 / 0")
    (tmp_path / "blocks.py").unlink()
    kept = {str(name): data.decode() for name, data in kept_code(store, "small/r", spec)}
    assert kept == {"network.py": SOUND["conv"][0], "blocks.py": BLOCKS}
    for key, _ in before:
        store.put(key, b"another")
    assert not list(kept_code(store, "small/r", spec))


def test_a_changed_file_is_not_kept(tmp_path: Path) -> None:
    """What no longer has the hash that the spec names did not run."""
    path = place(tmp_path, *SOUND["mlp"])
    store, spec = open_store(str(tmp_path / "store")), read_spec(path)
    (tmp_path / "network.py").write_text("1 / 0")
    keep_code(store, "small/r", spec, tmp_path)
    assert not list(store.list("small/r/"))


def test_a_job_without_code_keeps_none(tmp_path: Path) -> None:
    """Nothing is written."""
    store = open_store(str(tmp_path / "store"))
    keep_code(store, "small/r", read_spec(write(tmp_path)), tmp_path)
    assert not list(store.list("small/r/"))
