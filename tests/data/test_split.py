"""Splits of stored arrays: their shares, what they hold together, and their faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from job.data.dataset import Dataset, load
from job.data.split import Positions, divide
from job.data.values import Place
from job.errors import InputError
from job.spec import Arrays
from tests.data.test_data import faults, of_arrays, save, task

Array = NDArray[Any]
PLACE = Place("$.data", "a.npz", "row")
KIND = task("kind", "window", "cross_entropy", outputs=3)
SHARES = st.floats(0.01, 0.45)
SEEDS = st.integers(0, 99)


def divided(n: int, seed: int, marks: Array | None = None, **data: Any) -> Positions:
    arrays = Arrays.model_validate({"kind": "arrays", "path": "a.npz", **data})
    parts = divide(n, arrays, seed, marks, PLACE)
    together = np.concatenate(parts)
    assert sorted(together.tolist()) == list(range(n))
    assert all((np.diff(part) > 0).all() for part in parts)
    return parts


@given(st.integers(3, 200), SHARES, SHARES, SEEDS, st.sampled_from(["random", "tail"]))
def test_shares(n: int, validation: float, test: float, seed: int, split: str) -> None:
    """Every sample is in one split, and none is empty; the shares are met within a sample."""
    parts = divided(n, seed, validation=validation, test=test, split=split)
    for part, share in ((parts.validation, validation), (parts.test, test)):
        assert abs(len(part) - max(share * n, 1)) <= 1
    assert len(parts.train) >= 1
    if split == "tail":
        assert parts.train[-1] < parts.validation[0] <= parts.validation[-1] < parts.test[0]


@given(st.lists(st.integers(0, 4), min_size=20, max_size=200), SHARES, SHARES, SEEDS)
def test_stratified(classes: list[int], validation: float, test: float, seed: int) -> None:
    """Each class has its share in every split within one sample, and is in the training split."""
    marks = np.array(classes)
    split = {"stratified": "kind"}
    parts = divided(len(marks), seed, marks, validation=validation, test=test, split=split)
    for label, size in zip(*np.unique(marks, return_counts=True), strict=True):
        assert (marks[parts.train] == label).any()
        for part, share in ((parts.validation, validation), (parts.test, test)):
            assert abs((marks[part] == label).sum() - share * size) <= 1


@given(st.lists(st.integers(0, 30), min_size=30, max_size=200), SHARES, SHARES, SEEDS)
def test_no_group_is_in_two_splits(groups: list[int], v: float, t: float, seed: int) -> None:
    """Whole groups are held out, whatever their sizes; a split is no farther from its share than
    the largest group is long."""
    marks = np.array([*groups, 40, 41, 42])
    split = {"group": "who"}
    parts = divided(len(marks), seed, marks, validation=v, test=t, split=split)
    seen = [set(marks[part].tolist()) for part in parts]
    assert all(seen)
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]
    largest = np.unique(marks, return_counts=True)[1].max()
    assert abs(len(parts.validation) - v * len(marks)) <= largest + 1


def test_the_seed_draws() -> None:
    """A split by groups or classes follows the seed."""
    marks = np.arange(60) // 3
    for split in ({"group": "who"}, {"stratified": "kind"}):
        one, same, other = (divided(60, seed, marks, split=split) for seed in (1, 1, 2))
        assert one.validation.tolist() == same.validation.tolist()
        assert one.validation.tolist() != other.validation.tolist()


def stored(n: int = 30, **more: Any) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return {"features": draw.normal(size=(n, 2)), "kind": np.arange(n) % 3, **more}


def loaded(folder: Path, content: dict[str, Any], **data: Any) -> Dataset:
    save(folder / "a.npz", content)
    return load(of_arrays(tasks=[KIND], **data), folder)


def test_by_a_tasks_classes(tmp_path: Path) -> None:
    """data.split names the task; 10 samples of each class, 2 of each held out."""
    made = loaded(tmp_path, stored(), split={"stratified": "kind"})
    assert np.bincount(made.validation.targets["kind"]).tolist() == [2, 2, 2]


@pytest.mark.parametrize("hole", [np.nan, -1])
def test_samples_without_a_label_are_a_stratum(tmp_path: Path, hole: float) -> None:
    """Where a task's labels may be missing, each split has the same share of those that are."""
    kind = np.where(np.arange(40) % 4 == 3, hole, np.arange(40) % 4)
    save(tmp_path / "a.npz", stored(40, kind=kind))
    split: dict[str, Any] = {"stratified": "kind"}
    made = load(of_arrays(tasks=[KIND | {"missing": "skip"}], split=split), tmp_path)
    held = made.validation.targets["kind"]
    assert (np.bincount(held + 1)).tolist() == [2, 2, 2, 2]
    with pytest.raises(InputError, match=r"the split needs a value|needs classes"):
        load(of_arrays(tasks=[KIND], split=split), tmp_path)


@pytest.mark.parametrize("who", [np.arange(30) // 5, np.array([f"p{i // 5}" for i in range(30)])])
def test_by_group(tmp_path: Path, who: Array) -> None:
    """Groups are numbers or texts of an array in the file."""
    content = stored(who=who, features=np.arange(30.0)[:, None])
    made = loaded(tmp_path, content, split={"group": "who"})
    groups = [
        set((part.inputs["features"].flatten() // 5).tolist())
        for part in (made.train, made.validation)
    ]
    assert [len(found) for found in groups] == [5, 1]
    assert not groups[0] & groups[1]


@pytest.mark.parametrize("words", [True, False])
def test_by_a_column(tmp_path: Path, words: bool) -> None:
    """The column's words or numbers assign the samples; those of the test only come if asked."""
    part = np.arange(30) % 3
    column = np.array(["train", "validation", "test"])[part] if words else part
    content = stored(part=column, features=np.arange(30.0)[:, None])
    made = loaded(tmp_path, content, split={"column": "part"})
    assert made.train.inputs["features"].flatten().tolist() == list(range(0, 30, 3))
    assert made.validation.inputs["features"].flatten().tolist() == list(range(1, 30, 3))
    assert made.test is None
    made = load(of_arrays(tasks=[KIND], split={"column": "part"}), tmp_path, test=True)
    assert made.test is not None
    assert made.test.inputs["features"].flatten().tolist() == list(range(2, 30, 3))


def test_files_of_their_own(tmp_path: Path) -> None:
    """Validation and test may be files; then all of the first one trains, and the file of the test
    is not opened unless asked for."""
    save(tmp_path / "v.npz", stored(7))
    data: dict[str, Any] = {"validation": {"path": "v.npz"}, "test": {"path": "t.npz"}}
    made = loaded(tmp_path, stored(), **data)
    assert (len(made.train), len(made.validation)) == (30, 7)
    save(tmp_path / "t.npz", stored(5))
    made = load(of_arrays(tasks=[KIND], **data), tmp_path, test=True)
    assert made.test is not None
    assert len(made.test) == 5


def test_a_share_for_the_test(tmp_path: Path) -> None:
    """A tenth is kept for the test, and in no other split."""
    made = loaded(tmp_path, stored(features=np.arange(30.0)[:, None]), test=0.1)
    whole = load(of_arrays(tasks=[KIND], test=0.1), tmp_path, test=True)
    assert whole.test is not None
    splits = (whole.train, whole.validation, whole.test)
    assert [len(split) for split in splits] == [21, 6, 3]
    found = [x for split in splits for x in split.inputs["features"].flatten().tolist()]
    assert sorted(found) == list(range(30))
    assert made.train.inputs["features"].equal(whole.train.inputs["features"])


@pytest.mark.parametrize(
    ("more", "data", "line"),
    [
        (
            {"who": np.zeros(30)},
            {"split": {"group": "who"}},
            "a.npz, column who: found 1 groups; a split by group needs 2 or more; split in",
        ),
        (
            {"who": np.where(np.arange(30) == 4, np.nan, 1.0)},
            {"split": {"group": "who"}},
            "a.npz, row 4, column who: found no value; the split needs a value in every row",
        ),
        (
            {"who": np.zeros((30, 2))},
            {"split": {"group": "who"}},
            "a.npz, column who: found shape [30, 2]; a split looks at one value per sample; store",
        ),
        (
            {"who": np.zeros(29)},
            {"split": {"group": "who"}},
            "a.npz, column who: found shape [29]; the features have 30 rows; store one",
        ),
        (
            {"who": np.zeros(30)},
            {"split": {"group": "whoo"}},
            '$.data.split.group: found "whoo"; the data has features, kind, who; did you',
        ),
        (
            {"part": np.array(["train", "dev", "dev"] * 10)},
            {"split": {"column": "part"}},
            'a.npz, row 1, column part: found "dev", and 19 more; must be train, validation or',
        ),
        (
            {"part": np.zeros(30, int)},
            {"split": {"column": "part"}},
            "a.npz, column part: found no validation; training and validation need a sample each",
        ),
        (
            {"features": np.zeros((2, 2)), "kind": np.zeros(2)},
            {"test": 0.2},
            "a.npz: found 2 rows; a split needs 3 or more; supply more data",
        ),
        (
            {},
            {"validation": {"path": "wide.npz"}},
            "wide.npz, features: found 1 steps of 5 features; a.npz has 1 steps of 2; store both",
        ),
        (
            {},
            {"validation": {"path": "bytes.npz"}},
            "bytes.npz, features: found uint8; a.npz has float64, in which 1 is another number;",
        ),
        (
            {},
            {"validation": {"path": "none.npz"}},
            "none.npz: found no file at ",
        ),
        (
            {"who": np.arange(30)},
            {"validation": {"path": "who.npz"}, "split": {"group": "who"}},
            'who.npz: found group "28" and 1 more groups; a group is in one split, and a.npz has',
        ),
        (
            {},
            {"validation": {"path": "v.txt"}},
            '$.data.validation.path: found "v.txt"; must end in .npz or .safetensors or',
        ),
    ],
)
def test_faults(tmp_path: Path, more: dict[str, Any], data: dict[str, Any], line: str) -> None:
    """Each fault is one line: where, what was found, the rule, the remedy."""
    save(tmp_path / "wide.npz", stored(features=np.ones((30, 5))))
    save(tmp_path / "bytes.npz", stored(features=np.ones((30, 2), np.uint8)))
    save(tmp_path / "who.npz", stored(who=np.arange(28, 58)[::-1].copy()))
    save(tmp_path / "a.npz", stored() | more)
    (found,) = faults(of_arrays(tasks=[KIND], **data), tmp_path)
    assert found.startswith(line)
