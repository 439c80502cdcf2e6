"""A run keeps the code of one's own that it was begun with."""

from __future__ import annotations

from pathlib import Path

from job.record.layout import CODE, is_ours
from job.spec.own_code import sources
from job.spec.read import read_spec
from job.store import open_store
from job.store.by_content import keep_files, kept_file
from tests.support.own_networks import BLOCKS, SOUND, place


def test_what_ran_stays(tmp_path: Path) -> None:
    """Each file is stored once, under a name that runs give, and comes back as it was, whatever
    became of the file; one that was damaged in the store does not."""
    spec = read_spec(place(tmp_path, *SOUND["conv"]))
    (section,) = spec.own_code.values()
    files = sources(section)
    local, store = {tmp_path / n: d for n, d in files.items()}, open_store(str(tmp_path / "s"))
    keep_files(store, CODE, local)
    before = [entry.key for entry in store.list(f"{CODE}/")]
    assert len(before) == 2
    assert all(map(is_ours, before))
    (tmp_path / "network.py").write_text("1 / 0")
    keep_files(store, CODE, local)  # what did not run is not kept
    assert [entry.key for entry in store.list(f"{CODE}/")] == before
    kept = {name: kept_file(store, CODE, digest) for name, digest in files.items()}
    assert kept == {"network.py": SOUND["conv"][0].encode(), "blocks.py": BLOCKS.encode()}
    for key in before:
        store.put(key, b"another")
    assert not any(kept_file(store, CODE, digest) for digest in files.values())
    assert kept_file(store, CODE, "0" * 64) is None
