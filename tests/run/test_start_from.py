"""A run that begins with the network of another."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from deploy.plan.earlier_run import unreadable_runs
from job.data.dataset import Dataset
from job.errors import InputError
from job.record.run_index import RunIndex
from job.run.start_from import misfits, with_start
from job.spec import JobSpec
from job.spec.patch import moved
from job.spec.read import parse_spec
from job.store import open_store
from tests.support.runs import Run
from tests.support.tiny_job import Trained, edited, job, weights, write
from tests.support.warm_process import Nursery

SOURCE = {"train.epochs": 2, "seed": 5, "checkpoint.best_of": "*", "train.ema": {"decay": 0.5}}
START = {"run": "s", "checkpoint": "best", "parts": ["trunk"], "freeze": ["trunk"]}


@pytest.fixture(scope="module")
def source(warm: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run, of a network with an average."""
    folder = tmp_path_factory.mktemp("source")
    run = Run(warm, write(folder, SOURCE), str(folder / "store"), "s")
    process = run.start()
    assert process.wait() == 0, process.err
    return run


def begun(source: Run, edits: dict[str, Any]) -> tuple[JobSpec, Dataset]:
    """A spec with edits, and its data with what it starts from."""
    spec, data = job(source.spec.parent, edits)
    return spec, with_start(data, spec, source.url)


def averages(source: Run) -> dict[str, torch.Tensor]:
    """The averaged parameters in the best checkpoint of the source."""
    index = RunIndex.read(source.store, source.key)
    assert index is not None
    assert index.best is not None
    data = source.store.get(f"{source.key}/{index.best.folder}/model.safetensors").data
    every = safetensors.torch.load(data)
    return {n.removeprefix("ema."): x for n, x in every.items() if n.startswith("ema.")}


def test_it_has_the_trunk_of_the_other_run(source: Run) -> None:
    """The trunk is the average that the other run evaluated, and stays; heads are its own."""
    run = Trained(*begun(source, {"model.start_from": START}))
    theirs, fresh = averages(source), weights(Trained(*job(source.spec.parent)).training)
    for name, tensor in weights(run.training).items():
        assert torch.equal(tensor, (theirs if name.startswith("trunk.") else fresh)[name]), name
    run.run()
    after = weights(run.training)
    assert all(torch.equal(after[name], theirs[name]) for name in theirs if "trunk" in name)
    assert any(not torch.equal(after[name], fresh[name]) for name in fresh if "trunk" not in name)


def test_all_takes_the_heads_too(source: Run) -> None:
    """With `all` every parameter is the other run's."""
    edits = {"model.start_from": {"run": "small/s", "checkpoint": "best", "parts": "all"}}
    run = Trained(*begun(source, edits))
    theirs = averages(source)
    for name, tensor in weights(run.training).items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.slow
def test_a_resumed_run_needs_the_other_no_more(
    source: Run, nursery: Nursery, tmp_path: Path
) -> None:
    """It records run, step and digest, and goes on without the other, to the same end."""
    url = str(tmp_path / "store")
    shutil.copytree(source.url, url)
    spec = write(tmp_path, {"model.start_from": START})
    whole, cut = Run(nursery, spec, url, "whole"), Run(nursery, spec, url, "cut")
    process = whole.start()
    assert process.wait() == 0, process.err
    cut.interrupted(7)
    shutil.rmtree(Path(url) / source.key)
    process = cut.start()
    assert process.wait() == 0, process.err
    assert cut.end() == whole.end()
    index = RunIndex.read(source.store, source.key)
    assert index is not None
    assert index.best is not None
    for started in (e for e in cut.history() if e["event"] == "run.started"):
        origin = started["origin"]
        assert (origin["run"], origin["step"]) == (source.key, index.best.step)
        assert (origin["sha256"], origin["averaged"]) == (index.best.manifest, True)


def test_over_s3(source: Run, s3_url: str, nursery: Nursery, tmp_path: Path) -> None:
    """A run is read from wherever its URL leads."""
    store, there = open_store(s3_url), source.store
    for entry in there.list(f"{source.key}/"):
        store.put(entry.key, there.get(entry.key).data)
    start = START | {"run": f"{s3_url}/{source.key}", "checkpoint": 10}
    run = Run(nursery, write(tmp_path, {"model.start_from": start}), str(tmp_path / "store"))
    process = run.start()
    assert process.wait() == 0, process.err
    [started] = [e for e in run.history() if e["event"] == "run.started"]
    assert (started["origin"]["store"], started["origin"]["step"]) == (s3_url, 10)


@pytest.mark.parametrize(
    ("start", "edits", "fault"),
    [
        ({}, {"model.hidden": 5}, r"weight_ih_l0 of shape \[16, 3\]; the network's is \[20, 3\]"),
        ({"run": "nobody"}, {}, r"start_from.run: found no run nobody; .* holds none"),
        ({"checkpoint": 4}, {}, r"start_from.checkpoint: found 4; .*the steps 10, 5"),
        ({"parts": ["lstm"]}, {}, r'start_from.parts: found "lstm"; no parameter'),
        ({"freeze": ["lstm"]}, {}, r'start_from.freeze: found "lstm"; no parameter'),
    ],
)
def test_faults(source: Run, start: dict[str, Any], edits: dict[str, Any], fault: str) -> None:
    """What does not fit is named, before anything trains."""
    with pytest.raises(InputError, match=fault):
        Trained(*begun(source, edits | {"model.start_from": START | start}))


def test_a_damaged_checkpoint_is_refused(source: Run, tmp_path: Path) -> None:
    """A single changed byte of the weights shows."""
    shutil.copytree(source.url, tmp_path / "store")
    [file, *_] = sorted((tmp_path / "store").glob("small/s/checkpoints/10-*/model.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    spec, loaded = job(source.spec.parent, {"model.start_from": START | {"checkpoint": "last"}})
    with pytest.raises(InputError, match=r"start_from.run: .*without the manifest's SHA-256"):
        with_start(loaded, spec, str(tmp_path / "store"))


@pytest.mark.slow
def test_other_categories_are_refused(warm: Nursery, tmp_path: Path) -> None:
    """A trunk that knows other categories, in another order, would read the data wrongly."""
    table = "a,b,y\n" + "".join(f"{'xyz'[i % 3]},{i % 7},{i % 3 + i % 2}\n" for i in range(60))
    (tmp_path / "t.csv").write_text(table)
    section = {"kind": "arrays", "path": "t.csv", "split": "tail", "features": ["a", "b"]}
    tasks = [{"name": "y", "level": "window", "loss": {"kind": "mse"}}]
    text = edited({"data": section, "tasks": tasks, "model": {"kind": "mlp", "hidden": [4]}})
    (tmp_path / "spec.json").write_text(json.dumps(text))
    run = Run(warm, tmp_path / "spec.json", str(tmp_path / "store"), "s")
    process = run.start()
    assert process.wait() == 0, process.err
    text["model"]["start_from"] = {"run": "s"}
    (tmp_path / "t.csv").write_text(table.replace("x,", "w,"))
    again = tmp_path / "again.json"
    again.write_text(json.dumps(text))
    process = Run(warm, again, run.url, "again").start()
    assert process.wait() == 2, process.err
    assert "found other categories of a: x, y, z; the data's are w, y, z" in process.err


@pytest.mark.parametrize(
    ("model", "parts", "found"),
    [
        ({"kind": "mlp"}, ["trunk"], ["categories of a"]),
        ({"kind": "mlp"}, ["by_task"], ["classes of kind"]),
        ({"kind": "mlp"}, "all", ["categories of a", "classes of kind"]),
        ({"kind": "python", "file": "n.py"}, ["own.first"], ["categories of a"]),
        ({"kind": "python", "file": "n.py"}, "all", ["categories of a", "classes of kind"]),
    ],
)
def test_codes_that_stood_for_something_else(
    tmp_path: Path, model: dict[str, Any], parts: Any, found: list[str]
) -> None:
    """They count for what is taken; in a network of one's own, categories always, and classes if a
    layer has as many outputs, as no name says what is trunk and what is head."""
    write(tmp_path)
    _, data = job(tmp_path)
    about = replace(data.inputs["features"], levels={"a": ["x", "y"]})
    data = replace(data, inputs={"features": about}, classes={"kind": ["no", "yes"]})
    spec = parse_spec(
        json.dumps(edited({"model": model | {"start_from": {"run": "s", "parts": parts}}}))
    )
    names = ("own.first", "own.last") if model["kind"] == "python" else ("trunk.a", "by_task.kind")
    tensors = {f"{name}.weight": torch.zeros(n, 5) for name, n in zip(names, (3, 2), strict=True)}
    was = {"levels": {"a": ["y", "x"]}, "classes": {"kind": ["yes", "no"]}}
    faults = [str(fault) for fault in misfits(spec, tensors, was, data)]
    assert len(faults) == len(found)
    assert all(f"other {what}:" in fault for what, fault in zip(found, faults, strict=True))


@pytest.mark.parametrize(
    ("run", "fault"),
    [
        ("../runs/small/s", "and this is a folder; store it in S3"),
        ("store/small/s", "and this is a folder"),
        ("nobody", "holds no such run"),
        ("s3://other/runs/small/s", None),
        ("s", None),
    ],
)
def test_a_pod_must_be_able_to_read_it(
    source: Run, s3_url: str, run: str, fault: str | None
) -> None:
    """A submission refuses runs in folders, and runs that the store does not hold."""
    store = open_store(s3_url)
    store.put("small/s/latest.json", source.store.get(f"{source.key}/latest.json").data)
    spec = parse_spec(json.dumps(edited({"model.start_from": {"run": run}})))
    asks = not run.startswith("s3:")
    found = list(unreadable_runs(spec, source.spec.parent, s3_url, asks))
    assert [each.where for each in found] == ["$.model.start_from.run"] * (fault is not None)
    assert fault is None or fault in str(found[0])


def test_a_moved_spec_names_the_same_folder(source: Run, tmp_path: Path) -> None:
    """An edited spec in another folder leads to the run's folder; an id stays an id."""
    folder = source.spec.parent
    for run, expected in (("store/small/s", folder / "store/small/s"), ("s", "s")):
        content = edited({"model.start_from": {"run": run}})
        text = json.loads(moved(content, folder / "spec.json", tmp_path / "new.json"))
        found = text["model"]["start_from"]["run"]
        assert expected in (found, (tmp_path / found).resolve())
