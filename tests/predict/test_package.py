"""What a package holds computes what the run does, in batches of any size; its card says so."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from job.data.dataset import load as load_data
from job.errors import InputError
from job.package.export import Exported
from job.package.package import package
from job.predict import Predictor, load
from tests.support.command import here
from tests.support.finished import finish
from tests.support.own_networks import FORWARD, MLP, edited, place
from tests.support.tiny_job import SMALL, Trained, job, saved_weights, write

Line = dict[str, Any]
KINDS: dict[str, Line] = {
    "lstm": {"train.ema": {"decay": 0.8}},
    "conv1d": {"model": {"kind": "conv1d", "width": 6, "layers": 2}},
    "transformer": {"model": {"kind": "transformer", "width": 8, "heads": 2, "layers": 1}},
    "experts": {"model": {"hidden": 4, "projection": 4, "experts": {"kind": "mmoe"}}},
    "no_steps": {"tasks": SMALL["tasks"][:2]},
    "steps_alone": {"tasks": SMALL["tasks"][2:]},
    "ordinal": {"tasks": [SMALL["tasks"][0] | {"outputs": 4, "loss": {"kind": "ordinal"}}]},
}


def by_hand(out: Path, predictor: Predictor, features: torch.Tensor) -> None:
    """Both files give the run's predictions for batches of other sizes than were traced."""
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load(out / "model.pt2").module()
    tasks = predictor.spec.task_names
    assert [each.name for each in session.get_outputs()] == tasks
    for size in (1, 2, 17):
        ours = predictor.predict(features[:size])
        by_onnx = session.run(None, {"features": features[:size].numpy()})
        by_torch = program(features[:size])
        for name, one, two in zip(tasks, by_onnx, by_torch, strict=True):
            wanted = ours[name].values
            np.testing.assert_allclose(np.asarray(one), wanted, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(two.detach().numpy(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "own"])
def test_both_formats(tmp_path: Path, kind: str) -> None:
    """Of every kind of network, with the difference that was measured."""
    spec = place(tmp_path, FORWARD) if kind == "own" else write(tmp_path, KINDS[kind])
    predictor = load(finish(spec), spec_folder=tmp_path, device="cpu")
    out = tmp_path / "out"
    formats = package(predictor, out)
    assert [each.file for each in formats if each.difference is not None] == [
        "model.pt2",
        "model.onnx",
    ], formats
    by_hand(out, predictor, torch.from_numpy(np.load(tmp_path / "small.npz")["features"]))
    card = (out / "README.md").read_text()
    assert "model.pt2`: checked on 9 validation samples" in card
    assert json.loads((out / "spec.json").read_text())["name"] == "small"


PADDED: dict[str, Line] = {
    "transformer": KINDS["transformer"]["model"],
    "lstm": {"hidden": 4, "projection": 4, "layers": 2},
}
"""Networks that look at which positions are real."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", PADDED)
def test_padding(tmp_path: Path, kind: str) -> None:
    """Of inputs with padding, gaps in a mask too, beside one of a single position: the mask goes in
    as another input, and what stands at padding changes nothing."""
    inputs = {"features": {"mask": "real"}, "alone": {}}
    spec = write(tmp_path, {"model": PADDED[kind], "data.inputs": inputs})
    stored, draw = dict(np.load(tmp_path / "small.npz")), np.random.default_rng(4)
    features = stored["features"]
    real = draw.random(features.shape[:2]) < 0.6
    real[:, 2] = True
    alone = draw.normal(size=(len(features), 2)).astype("f4")
    np.savez(tmp_path / "small.npz", **stored, real=real, alone=alone)
    predictor = load(finish(spec), spec_folder=tmp_path, device="cpu")
    formats = package(predictor, tmp_path / "out")
    assert all(each.difference is not None for each in formats), formats
    about = json.loads((tmp_path / "out/interface.json").read_text())["inputs"]
    assert about["mask"] == {"type": "bool", "shape": [None, 6], "features": []}
    session = onnxruntime.InferenceSession(
        tmp_path / "out/model.onnx", providers=["CPUExecutionProvider"]
    )
    program = torch.export.load(tmp_path / "out/model.pt2").module()
    wanted = predictor.predict({"features": features, "real": real, "alone": alone})
    given = {"features": np.where(real[..., None], features, 7), "mask": real}
    given["alone"] = alone[:, None]
    for size in (1, 2, 17):
        few = {name: given[name][:size] for name in about}
        by_torch = program(*map(torch.from_numpy, few.values()))
        by_onnx = session.run(None, few)
        for name, one, two in zip(predictor.spec.task_names, by_onnx, by_torch, strict=True):
            ours = wanted[name].values[:size]
            at = real[:size] if ours.shape[1:2] == (6,) else slice(None)
            np.testing.assert_allclose(np.asarray(one)[at], ours[at], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(two.detach().numpy()[at], ours[at], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_what_cannot_be_exported(tmp_path: Path) -> None:
    """A network that looks at its numbers is one line with the reason; the card is there."""
    source = edited(
        "        return self.second(x).unflatten(1, (self.steps, -1))",
        "        x = x if float(x.sum()) > 0 else -x\n"
        "        return self.second(x).unflatten(1, (self.steps, -1))",
        MLP,
    )
    predictor = load(finish(place(tmp_path, source)), spec_folder=tmp_path, device="cpu")
    formats = package(predictor, tmp_path / "out")
    assert not any(each.is_written for each in formats)
    assert all(each.why and "\n" not in each.why for each in formats)
    card = (tmp_path / "out/README.md").read_text()
    assert f"- no `model.pt2`: {formats[0].why}" in card
    assert not list((tmp_path / "out").glob("model*"))


@pytest.fixture
def unexported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting, which takes long, is left out."""
    made = [Exported("model.pt2", why="left out"), Exported("model.onnx", why="left out")]
    monkeypatch.setattr("job.package.package.export", lambda *_: made)


@pytest.mark.usefixtures("unexported")
def test_the_card(tmp_path: Path) -> None:
    """It has the run's own numbers, what limits them, and the shapes of what goes in."""
    edits = {"train.epochs": 8, "optimizer.lr": 0.02, "data.test": 0.2, "gates": [
        {"task": "kind", "skill": 0.9, "by_epoch": 8}]}  # fmt: skip
    place_ = finish(write(tmp_path, edits))
    predictor = load(place_, spec_folder=tmp_path)
    package(predictor, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    result = json.loads(Path(place_, "result.json").read_text())
    for name, worth in result["worth"].items():
        if "skill" in worth:
            shown = f"{100 * worth['skill']:.1f} ± {100 * worth['error']:.1f}%"
            assert re.search(rf"^\| {name}\b.* \| {re.escape(shown)} \|", card, re.MULTILINE)
        if not worth["beats"]:
            assert re.search(rf"^- {name}: (does not surely|the validation split)", card, re.M)
    assert "On the test split" in card
    assert "Gate kind skill > 90% by epoch 8 (validation): failed." in card
    assert "| `features` | float32 | [batch, 6, 3] |" in card
    assert "The network began with random numbers" in card


@pytest.mark.usefixtures("unexported")
def test_licence_notes(tmp_path: Path) -> None:
    """Of weights that it began with: their digest, and the licence that lies beside them."""
    write(tmp_path)
    run = Trained(*job(tmp_path))
    run.run(stop_at=2)
    (tmp_path / "theirs").mkdir()
    section = saved_weights(run.training, tmp_path / "theirs/base.safetensors")
    (tmp_path / "theirs/LICENSE.txt").write_text("as it is")
    weights = {**section, "path": "theirs/base.safetensors", "parts": ["trunk.*"]}
    place_ = finish(write(tmp_path, {"model": {**SMALL["model"], "weights": weights}}))
    package(load(place_, spec_folder=tmp_path), tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    digest = hashlib.sha256((tmp_path / "theirs/base.safetensors").read_bytes()).hexdigest()
    assert f"- `theirs/base.safetensors` (SHA-256 `{digest}`): the tensors trunk.*" in card
    assert "beside it lies [LICENSE.txt](licences/1-LICENSE.txt)" in card
    assert (tmp_path / "out/licences/1-LICENSE.txt").read_text() == "as it is"


def test_nothing_is_overwritten(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is there stays as it is."""
    code, _, err = here(capsys, "package", small / "store/small/run", "-o", small)
    assert code == 2
    assert "nothing is overwritten" in err


def test_without_the_data(small: Path, tmp_path: Path) -> None:
    """The run's data must be at hand; nothing is left behind."""
    predictor = load(small / "store/small/run", spec_folder=tmp_path)
    with pytest.raises(InputError, match=r"small\.npz: found no file at .* with --spec-folder"):
        package(predictor, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_without_onnx(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says what to install; the other format is written."""
    known = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name: None if name in ("onnx", "onnxscript") else known(name),
    )
    monkeypatch.chdir(small)
    code, out, _ = here(capsys, "package", "small/run", "--store", "store", "-o", tmp_path / "out")
    assert code == 0
    first, second = out.splitlines()
    assert first.startswith(f"{tmp_path}/out/model.pt2: its predictions are ")
    assert second == "no model.onnx: no onnx and onnxscript here: pip install 'evengrad[package]'"


def test_the_data_of_its_own_check(small: Path) -> None:
    """The 9 samples that the card names are the validation split's."""
    assert len(load_data(load(small / "store/small/run").spec, small).validation) == 9
