"""What `validate` tells of stored arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.cli.app import main
from tests.support.command import here
from tests.support.tiny_job import write


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the spec lies."""
    monkeypatch.chdir(tmp_path)


def test_the_ranges_of_the_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line has each feature's range in the training split; of many only the extreme ones."""
    write(tmp_path)
    first, second = here(capsys, "validate", "spec.json")[1].splitlines()
    assert first.startswith("spec.json: valid; 36 training, 9 validation samples; content ")
    assert second.startswith("3 features, scale none: feature 0 -")
    stored = dict(np.load(tmp_path / "small.npz"))
    stored["features"] = np.arange(45 * 6 * 9.0).reshape(45, 6, 9)
    stored["features"][:, :, 4] = 7
    stored["features"][0, 0, 5] = 1e9
    np.savez(tmp_path / "small.npz", **stored)
    line = here(capsys, "validate", "spec.json")[1].splitlines()[1]
    shown = "with the extremes in feature 4 7 … 7, feature 5 14 … 1e+09, feature 0 0 … 1935"
    assert line == f"9 features, scale none: {shown}"


def test_the_test_is_read_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The samples of the test are counted, and their faults told before a run begins."""
    write(tmp_path, {"data.test": {"path": "test.npz"}})
    code, _, err = here(capsys, "validate", "spec.json")
    assert code == 2
    assert err.startswith("test.npz: found no file at ")
    assert "correct data.test.path or supply the file" in err
    stored = np.load(tmp_path / "small.npz")
    np.savez(tmp_path / "test.npz", **{name: stored[name][:5] for name in stored.files})
    assert "36 training, 9 validation, 5 test samples" in here(capsys, "validate", "spec.json")[1]


TABLE = "age,size,empty,wet\n" + "".join(
    f"{i},{i % 3 if i % 2 else ''},,{'Yes' if i % 4 else 'No'}\n" for i in range(20)
)


def said(
    folder: Path, capsys: pytest.CaptureFixture[str], features: list[str], **data: Any
) -> list[str]:
    """The lines of `validate` of a table with a column of holes, and one without any value."""
    (folder / "a.csv").write_text(TABLE)
    loss = {"kind": "binary_cross_entropy"}
    spec = {
        "name": "t",
        "data": {"kind": "arrays", "path": "a.csv", "features": features, **data},
        "model": {"hidden": 2},
        "tasks": [{"name": "wet", "level": "window", "loss": loss}],
        "train": {"epochs": 1, "batch_size": 4},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    with pytest.raises(SystemExit) as ended:
        main(["validate", str(folder / "spec.json")])
    assert ended.value.code == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("missing", "counts"),
    [("mean", "3 features, scale"), ("indicator", "3 features and 2 indicators of missing values")],
)
def test_holes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str, counts: str
) -> None:
    """A feature without any value is named, and the features that say where a value is missing are
    counted."""
    lines = said(tmp_path, capsys, ["age", "size", "empty"], missing=missing)
    assert lines[1].startswith(counts)
    assert lines[2] == "no value in the training split: empty; leave it out"
    assert lines[3] == "wet: no is 0, yes is 1"


def test_no_holes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without them there is nothing of the kind to say."""
    lines = said(tmp_path, capsys, ["age"], missing="indicator")
    assert lines[1].startswith("1 feature and 0 indicators")
    assert len(lines) == 3


def test_what_reads_like_a_slip_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An image for a network of sequences, a share with nobody, more outputs than classes of text;
    and nothing of it where it is as it should be."""
    random = np.random.default_rng(0)
    texts = np.array(["a", "b", "c"])[np.arange(60) % 3]
    np.savez(
        "d.npz", pixels=random.normal(size=(60, 4, 5)), kind=texts, much=random.normal(size=60)
    )
    loss, head = {"kind": "cross_entropy"}, {"hidden": [4], "share": "all"}
    spec: dict[str, Any] = {
        "name": "odd",
        "data": {"kind": "arrays", "path": "d.npz", "inputs": {"pixels": {"kind": "image"}}},
        "model": {"kind": "lstm", "hidden": 4},
        "tasks": [
            {"name": "kind", "level": "sample", "outputs": 5, "loss": loss, "head": head},
            {"name": "much", "level": "sample", "loss": {"kind": "mse"}},
        ],
        "train": {"epochs": 1, "batch_size": 8},
    }

    def doubts() -> list[str]:
        (tmp_path / "odd.json").write_text(json.dumps(spec))
        code, out, err = here(capsys, "validate", "odd.json")
        assert code == 0, err
        return out.splitlines()[2:]

    by_row = "as a sequence of 4 x 5 pixels, row by row"
    assert doubts() == [
        f"pixels: lstm reads an image {by_row}; conv2d is for images",
        '$.tasks[0].head.share: no other task names "all"',
        "$.tasks[0].outputs: 5 outputs for 3 classes: a, b, c",
    ]
    spec["model"] = {"kind": "conv2d", "width": 4}
    spec["tasks"][0]["outputs"] = 3
    spec["tasks"][1]["head"] = head
    assert doubts() == []
