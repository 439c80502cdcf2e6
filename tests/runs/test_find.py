"""A run, and a checkpoint of it, are found by what a person calls them."""

from __future__ import annotations

from pathlib import Path

import pytest

from job.errors import InputError
from job.record.run_index import Kept, RunIndex
from job.runs.find import choose_checkpoint, find_run, reference, the_run
from job.store import Store, open_store


def test_names(store: Store, store_url: str) -> None:
    """Its id, its name with the id, its URL or folder lead to the same run."""
    store.put("job/r1/latest.json", b"{}")
    where = store_url if store_url.startswith("s3://") else str(Path(store_url).resolve())
    for name in ("r1", "job/r1", f"{where}/job/r1"):
        found = find_run(name, store_url)
        assert found is not None, name
        assert (found.run, open_store(found.store).url) == ("job/r1", store.url)
        assert reference(name, store_url) == "job/r1"
    assert reference(f"{where}/job/r1", "elsewhere") == f"{store.url}/job/r1"
    assert reference("r9", store_url) == "r9"
    for name in ("r2", "other/r1", f"{where}/job/r2", "s3://bucket", "s3://b/r", "../r1", "", "/"):
        assert find_run(name, store_url) is None, name


def test_a_folder_is_relative_to_the_spec(tmp_path: Path) -> None:
    """So that a spec means the same from wherever it is run."""
    folder = tmp_path / "runs" / "job" / "r1"
    folder.mkdir(parents=True)
    (folder / "latest.json").write_text("{}")
    found = find_run("runs/job/r1", None, tmp_path)
    assert found is not None
    assert (found.run, found.store) == ("job/r1", str(tmp_path / "runs"))
    with pytest.raises(InputError, match=r"RUN: found no run r2; .*store holds none"):
        the_run("r2", str(tmp_path / "store"), "RUN")
    with pytest.raises(InputError, match=r"RUN: found runs, a folder.*there is .*runs/job/r1"):
        the_run("runs", None, "RUN", tmp_path)


def kept(step: int) -> Kept:
    return Kept(folder=f"checkpoints/{step}-1", step=step, manifest="0" * 64)


def test_checkpoints() -> None:
    """The newest, the best, or that of a step; a fault names those that there are."""
    index = RunIndex(epoch=1, spec_hash="", checkpoints=[kept(9), kept(6)], best=kept(3))
    for which, step in (("last", 9), ("best", 3), (6, 6), ("6", 6), (3, 3)):
        assert choose_checkpoint(index, which, "run r", "$").step == step
    with pytest.raises(InputError, match="it holds the steps 9, 6, 3"):
        choose_checkpoint(index, 5, "run r", "$")
    without = index.model_copy(update={"best": None})
    with pytest.raises(InputError, match=r"kept no best one.*; name \"last\""):
        choose_checkpoint(without, "best", "run r", "$")
    empty = without.model_copy(update={"checkpoints": []})
    with pytest.raises(InputError, match="it holds none"):
        choose_checkpoint(empty, "last", "run r", "$")


def test_an_id_of_several_jobs(tmp_path: Path) -> None:
    """It names none of them; with its job it names one."""
    store = open_store(str(tmp_path))
    for job in ("img", "people"):
        store.put(f"{job}/r1/latest.json", b"{}")
    with pytest.raises(InputError, match=r"r1: found runs of 2 jobs: img, people; .* img/r1"):
        find_run("r1", str(tmp_path))
    found = find_run("people/r1", str(tmp_path))
    assert found is not None
    assert found.run == "people/r1"
