"""A run's own code comes with it: what is fetched can be trained again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.own_networks import CONV, place
from tests.support.warm_process import Nursery, Process


@pytest.fixture
def trained(tmp_path: Path, nursery: Nursery) -> Path:
    """The folder of a job with a network of its own, in two files, and the store of its run."""
    spec = place(tmp_path / "job", CONV, {"build": "make"}, {"train.epochs": 1})
    run = nursery.start("run", spec, "--run-id", "r", "--store", tmp_path / "store")
    assert run.wait() == 0, run.err
    return tmp_path


def fetched(folder: Path, nursery: Nursery) -> Process:
    """The command that fetches the run into `got`, once it has ended well."""
    command = ("small/r", "--store", folder / "store", "-o", folder / "got")
    process = nursery.start(*command, program="deploy.fetch")
    assert process.wait() == 0, process.err
    return process


def test_the_code_beside_the_spec(trained: Path, nursery: Nursery) -> None:
    fetched(trained, nursery)
    for name in ("network.py", "blocks.py"):
        assert (trained / "got" / name).read_bytes() == (trained / "job" / name).read_bytes()


def test_no_file_outside_of_the_folder(trained: Path, nursery: Nursery) -> None:
    """Whatever a damaged or hostile spec in the store names."""
    stored = trained / "store/small/r/spec.json"
    spec = json.loads(stored.read_text())
    assert set(spec["model"]["sha256"]) == {"network.py", "blocks.py"}
    digests = spec["model"]["sha256"].values()
    spec["model"]["sha256"] = dict(zip(("../a.py", "/b.py"), digests, strict=True))
    stored.write_text(json.dumps(spec))
    process = fetched(trained, nursery)
    assert process.err.count("lies outside of the spec's folder") == 2, process.err
    assert not list(trained.rglob("a.py"))
