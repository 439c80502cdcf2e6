"""Tables: columns by role, categories, classes by name, empty cells, and their faults."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from job.data.dataset import Dataset, load
from job.spec import JobSpec
from job.store import open_store
from job.train.trainer import Trainer
from tests.data.test_data import faults, spec, task
from tests.support.tiny_job import State

ROWS = [
    "city,age,wage,rich,kind",
    "Rome,30,100,no,b",
    "Oslo,40,200,yes,a",
    "Rome,50,300,yes,c",
    "Oslo,60,400,yes,a",
    "Bern,70,500,no,b",
    "Rome,80,600,no,a",
]
"""With the tail split the last row validates."""
KIND = task("kind", "sample", "cross_entropy", outputs=3)
WAGE = task("wage", "sample")


def of_table(
    folder: Path,
    rows: list[str] = ROWS,
    tasks: list[dict[str, Any]] | None = None,
    name: str = "a.csv",
    **data: Any,
) -> JobSpec:
    text = "\n".join(rows) + "\n"
    if name.endswith(".gz"):
        (folder / name).write_bytes(gzip.compress(text.encode()))
    elif name.endswith(".csv"):
        (folder / name).write_text(text)
    else:
        pq.write_table(pa.csv.read_csv(pa.py_buffer(text.encode())), folder / name)
    section = {"kind": "arrays", "path": name, "features": ["city", "age"], "split": "tail"}
    return spec(section | data, tasks or [KIND, WAGE], train={"epochs": 1, "batch_size": 1})


def loaded(folder: Path, *rows: str, **more: Any) -> Dataset:
    return load(of_table(folder, [*ROWS, *rows], **more), folder)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet"])
def test_a_table(tmp_path: Path, name: str) -> None:
    """Texts become a column for each level, sorted; numbers stay; classes are sorted names."""
    made = loaded(tmp_path, name=name, validation=0.17)
    assert made.inputs["features"].names == ("city=Bern", "city=Oslo", "city=Rome", "age")
    assert made.inputs["features"].flags == (True, True, True, False)
    assert made.inputs["features"].levels == {"city": ["Bern", "Oslo", "Rome"]}
    assert made.classes == {"kind": ["a", "b", "c"]}
    rows = [[0, 0, 1, 30], [0, 1, 0, 40], [0, 0, 1, 50], [0, 1, 0, 60], [1, 0, 0, 70]]
    assert made.train.inputs["features"].tolist() == [[row] for row in rows]
    assert made.train.targets["kind"].tolist() == [1, 0, 2, 0, 1]
    assert made.train.targets["wage"].flatten().tolist() == [100, 200, 300, 400, 500]
    assert made.validation.inputs["features"].tolist() == [[[0, 0, 1, 80]]]
    assert (made.rows, made.skipped) == (6, {})


def test_in_s3(tmp_path: Path, s3_url: str) -> None:
    """A table in S3 is read like a file."""
    here = of_table(tmp_path)
    open_store(s3_url).put("a.csv", (tmp_path / "a.csv").read_bytes())
    there = here.data.model_copy(update={"path": f"{s3_url}/a.csv"})
    made = load(here.model_copy(update={"data": there}), Path("/nowhere"))
    assert torch.equal(made.train.inputs["features"], load(here, tmp_path).train.inputs["features"])


def test_patterns(tmp_path: Path) -> None:
    """A pattern takes columns in the file's order, without targets and without what the split
    looks at; a target of several outputs may be a pattern too."""
    rows = ["x_2,y_a,x_1,y_b,who,x_3"] + [f"1,{i},2,{i + 1},{i},3" for i in range(8)]
    tasks = [task("y", "sample", outputs=2, target="y_*")]
    made = load(
        of_table(tmp_path, rows, tasks, features=["x_3", "*"], split={"group": "who"}), tmp_path
    )
    assert made.inputs["features"].names == ("x_3", "x_2", "x_1")
    assert made.train.targets["y"].shape == (6, 2)


def test_the_splits_of_a_table(tmp_path: Path) -> None:
    """A table has the splits of arrays, and another file may have its columns in any order."""
    rows = [ROWS[0] + ",part", *(f"{row},{i % 3}" for i, row in enumerate(ROWS[1:]))]
    made = load(of_table(tmp_path, rows, split={"column": "part"}), tmp_path)
    assert made.train.inputs["features"][:, 0, 2].tolist() == [30, 60]
    (tmp_path / "v.csv").write_text("kind,age,city,wage\nc,33,Oslo,5\n")
    made = loaded(tmp_path, validation={"path": "v.csv"})
    assert made.validation.inputs["features"].tolist() == [[[0, 1, 0, 33]]]
    assert made.validation.targets["kind"].tolist() == [2]


def test_unknown_levels(tmp_path: Path) -> None:
    """A text that the training split lacks is 0 in all its columns, and counted."""
    made = loaded(tmp_path, "Lima,90,700,no,c", validation=0.15)
    assert made.validation.inputs["features"].tolist() == [[[0, 0, 0, 90]]]
    what = "texts of city that the training split lacks, 0 in all levels"
    assert made.skipped == {f"a.csv: {what}": 1}


def test_booleans(tmp_path: Path) -> None:
    """Booleans are two levels; as a target of cross-entropy two classes."""
    table = pa.table({"on": [True, False, True, None], "y": [True, False, False, True]})
    pq.write_table(table, tmp_path / "a.parquet")
    tasks = [task("y", "sample", "cross_entropy", outputs=2)]
    data = {"kind": "arrays", "path": "a.parquet", "features": ["on"], "missing": "mean"}
    small = {"epochs": 1, "batch_size": 1}
    made = load(spec(data | {"split": "tail"}, tasks, train=small), tmp_path)
    assert made.inputs["features"].names == ("on=false", "on=true")
    assert made.train.inputs["features"].flatten().tolist() == [0, 1, 1, 0, 0, 1]
    assert made.validation.inputs["features"].flatten().tolist() == [0, 0]
    assert made.train.targets["y"].tolist() == [1, 0, 0]
    assert made.classes == {"y": ["false", "true"]}


def test_texts_in_arrays(tmp_path: Path) -> None:
    """Classes by name are taken from .npz and Parquet's columns too, of step tasks as well."""
    kind = np.array([["a", "b"], ["c", "a"], ["b", "b"], ["a", "c"]])
    np.savez(tmp_path / "a.npz", features=np.zeros((4, 2, 1)), kind=kind)
    table = {"features": np.zeros((4, 2, 1)).tolist(), "kind": kind.tolist()}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    tasks = [task("kind", "step", "cross_entropy", outputs=3)]
    for name in ("a.npz", "a.parquet"):
        data = {"kind": "arrays", "path": name, "split": "tail"}
        made = load(spec(data, tasks, train={"epochs": 1, "batch_size": 1}), tmp_path)
        assert made.train.targets["kind"].tolist() == [[0, 1], [2, 0], [1, 1]]


@pytest.mark.parametrize("missing", ["mean", "indicator"])
def test_empty_cells(tmp_path: Path, missing: str) -> None:
    """An empty cell, and a mark for a missing value, is the training split's mean to the network;
    an indicator says where it was. A text that is missing has no level."""
    rows = [*ROWS[:2], "Oslo,,200,yes,a", *ROWS[3:5], ",n/a,500,no,b", "Rome,,600,no,a"]
    job = of_table(tmp_path, rows, missing=missing)
    made = load(job, tmp_path)
    assert made.skipped == {
        "a.csv: empty texts of city, 0 in all levels": 1,
        "a.csv: missing values of features, filled in": 3,
    }
    assert made.train.inputs["features"][4, 0, :2].tolist() == [0, 0]
    scaling = Trainer(job, made).model.scalings["features"]
    age = scaling(made.train.inputs["features"])[:, 0, 2]
    mean, deviation = np.mean([30, 50, 60]), np.std([30, 50, 60])
    wanted = [(30 - mean) / deviation, 0, (50 - mean) / deviation, (60 - mean) / deviation, 0]
    assert age.tolist() == pytest.approx(wanted)
    assert scaling(made.validation.inputs["features"])[0, 0, 2].item() == 0
    if missing == "indicator":
        assert scaling(made.train.inputs["features"])[:, 0, 3].tolist() == [0, 1, 0, 0, 1]
    assert scaling.width == (4 if missing == "indicator" else 3)


def test_missing_values_of_arrays(tmp_path: Path) -> None:
    """A NaN of an array is filled in on request, and training stays finite."""
    features = np.random.default_rng(0).normal(size=(20, 3, 2))
    features[4, 1, 0] = np.nan
    np.savez(tmp_path / "a.npz", features=features, wage=np.arange(20.0))
    data = {"kind": "arrays", "path": "a.npz", "missing": "indicator", "split": "tail"}
    job = spec(data, [WAGE])
    trainer = Trainer(job, load(job, tmp_path))
    trainer.run(lambda event: None, lambda: None, lambda: False)
    tensors = State(trainer).tensors
    assert all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point())
    assert tensors["model.trunk.encoder.lstm.weight_ih_l0"].shape[1] == 3


def test_what_the_numbers_stand_for_is_kept(tmp_path: Path) -> None:
    """A checkpoint's values have the levels and the classes."""
    job = of_table(tmp_path)
    values = json.loads(State(Trainer(job, load(job, tmp_path))).values)
    assert values["levels"] == {"city": ["Bern", "Oslo", "Rome"]}
    assert values["classes"] == {"kind": ["a", "b", "c"]}


def test_categories_are_not_scaled(tmp_path: Path) -> None:
    """A level stays 0 or 1 to the network, so that an unknown text is 0 too."""
    job = of_table(tmp_path)
    scaling = Trainer(job, load(job, tmp_path)).model.scalings["features"]
    assert scaling.scale[:3].tolist() == [1, 1, 1]
    assert scaling.shift[:3].tolist() == [0, 0, 0]


def with_row(i: int, row: str) -> list[str]:
    return [*ROWS[:i], row, *ROWS[i + 1 :]]


MANY = [ROWS[0], *(f"c{i},{i},{i},no,a" for i in range(90))]


@pytest.mark.parametrize(
    ("rows", "more", "line"),
    [
        (
            with_row(2, "Oslo,,200,yes,a"),
            {},
            "a.csv, row 3, column age: found an empty cell; every row needs a value; fill it in, "
            'or set data.missing to "mean" or "indicator"',
        ),
        (
            with_row(3, ",50,300,yes,c"),
            {},
            "a.csv, row 4, column city: found an empty cell; every row needs a value; fill it in",
        ),
        (
            with_row(2, "Oslo,n/a,200,yes,a"),
            {},
            'a.csv, row 3, column age: found "n/a"; every row needs a value; fill it in, or',
        ),
        (
            with_row(2, "Oslo,forty,200,yes,a"),
            {},
            'a.csv, row 3, column age: found "forty"; must be a number; correct it, or empty',
        ),
        (
            with_row(2, 'Oslo,"40,5",200,yes,a'),
            {},
            'a.csv, row 3, column age: found a decimal comma, "40,5"; must be a number like 1234.5',
        ),
        (
            with_row(2, "Oslo,1e300,200,yes,a"),
            {},
            'a.csv, row 3, column age: found "1e300"; must be a finite number in float32; correct',
        ),
        (
            with_row(2, "Oslo,40,,yes,a"),
            {},
            "a.csv, row 3, column wage: found nan; must be a finite number",
        ),
        (
            with_row(2, "Oslo,40,200,yes,"),
            {},
            "a.csv, row 3, column kind: found an empty cell; every row needs a class; correct the",
        ),
        (
            ROWS,
            {"tasks": [task("kind", "sample")]},
            'a.csv, column kind: found texts, such as "b"; mse needs numbers; store numbers, or',
        ),
        (
            ROWS,
            {"tasks": [KIND | {"outputs": 2}]},
            '$.tasks[0].outputs: found 3 classes in a.csv, column kind: "a", "b", "c"; outputs = 2',
        ),
        (
            MANY,
            {"tasks": [WAGE]},
            'a.csv, column city: found 72 different texts, such as "c0"; a column of categories',
        ),
        (
            ROWS,
            {"features": ["cty", "age"]},
            '$.data.features[0]: found "cty"; the data has city, age, wage, rich, kind; did you',
        ),
        (
            ROWS,
            {"features": ["height_*"]},
            '$.data.features[0]: found "height_*"; the data has city, age, wage, rich, kind; name',
        ),
        (
            ROWS,
            {"features": "features"},
            '$.data.features: found "features"; the data has city, age, wage, rich, kind; name the '
            'columns that are features: ["city", …]',
        ),
        (
            ROWS,
            {"features": ["city", "wage"]},
            '$.data.features[1]: found "wage"; a column is a feature, a target or what the split',
        ),
        (
            ROWS,
            {"tasks": [task("wages", "sample")]},
            '$.tasks[0].target: found "wages"; the data has city, age, wage, rich, kind; did you',
        ),
        (
            ["age,age,wage", *(f"{i},1,2" for i in range(8))],
            {"features": ["age"], "tasks": [WAGE]},
            "a.csv, column age: found 2 columns of that name; a name stands for one; rename or",
        ),
        (
            ROWS,
            {"validation": {"path": "v.csv"}},
            "v.csv, column city: found numbers; the training split has texts there; write both",
        ),
        (
            ROWS,
            {"features": ["age"], "validation": {"path": "v.csv"}},
            'v.csv, row 2, column kind: found "z"; the classes are "a", "b", "c"; correct the data',
        ),
    ],
)
def test_faults(tmp_path: Path, rows: list[str], more: dict[str, Any], line: str) -> None:
    """Each fault is one line: where, what was found, the rule, the remedy."""
    (tmp_path / "v.csv").write_text("city,age,wage,kind\n5,33,5,z\n")
    (found,) = faults(of_table(tmp_path, rows, **more), tmp_path)
    assert found.startswith(line)


def test_a_list_of_an_archive(tmp_path: Path) -> None:
    """A list of features needs a table, which is one file."""
    np.savez(tmp_path / "a.npz", x=np.ones(9))
    (tmp_path / "shards").mkdir()
    for path, found in (("a.npz", "a .npz file"), ("shards", "a folder")):
        data = {"kind": "arrays", "path": path, "features": ["x"]}
        (line,) = faults(spec(data, [WAGE]), tmp_path)
        assert line.startswith(f"$.data.path: found {found}; features names columns of a table")


def test_dates_are_no_numbers(tmp_path: Path) -> None:
    """A column of dates says what to store."""
    table = pa.table({"when": pa.array([1, 2, 3], pa.timestamp("s")), "wage": [1.0, 2, 3]})
    pq.write_table(table, tmp_path / "a.parquet")
    data = {"kind": "arrays", "path": "a.parquet", "features": ["when"]}
    (line,) = faults(spec(data, [WAGE], train={"epochs": 1, "batch_size": 1}), tmp_path)
    assert line.startswith("a.parquet, column when: found type timestamp[")


def test_a_column_without_texts_to_train_on(tmp_path: Path) -> None:
    """A column of categories that is empty in the whole training split says so."""
    rows = [ROWS[0], *(f",{i},{i},no,a" for i in range(8)), "Rome,9,9,no,a", "Rome,9,9,no,b"]
    job = of_table(tmp_path, rows, [WAGE], missing="mean")
    (line,) = faults(job, tmp_path)
    assert line.startswith("a.csv, column city: found no text; a column of categories has one or")


def test_stratified_by_classes_of_texts(tmp_path: Path) -> None:
    """A task's classes serve a split whether they are numbers or texts, named or by pattern."""
    rows = [ROWS[0], *(f"Rome,{i},{i},no,{'ab'[i % 2]}" for i in range(40))]
    for target in ("kind", "kin*"):
        tasks = [KIND | {"target": target}]
        job = of_table(tmp_path, rows, tasks, split={"stratified": "kind"})
        held = load(job, tmp_path).validation.targets["kind"]
        assert np.bincount(held).tolist() == [4, 4]


def test_stratified_by_texts_of_which_some_are_missing(tmp_path: Path) -> None:
    """Empty cells of a task that may miss labels are a stratum of their own."""
    rows = [ROWS[0], *(f"Rome,{i},{i},no,{'ab,'[i % 3].strip(',')}" for i in range(60))]
    tasks = [KIND | {"missing": "skip", "outputs": 2}]
    job = of_table(tmp_path, rows, tasks, split={"stratified": "kind"})
    held = load(job, tmp_path).validation.targets["kind"]
    assert np.bincount(held + 1).tolist() == [4, 4, 4]


RICH = task("rich", "sample", "binary_cross_entropy")


@pytest.mark.parametrize(
    ("zero", "one", "names"),
    [("no", "yes", ["no", "yes"]), ("False", "TRUE", ["false", "true"])],
)
def test_yes_and_no(tmp_path: Path, zero: str, one: str, names: list[str]) -> None:
    """A 0/1 target may be texts of which it is plain which is 1, in any case."""
    rows = [line.replace("yes", one).replace("no", zero) for line in ROWS]
    made = load(of_table(tmp_path, rows, [RICH], validation=0.17), tmp_path)
    assert made.train.targets["rich"].flatten().tolist() == [0, 1, 1, 1, 0]
    assert made.validation.targets["rich"].flatten().tolist() == [0]
    assert made.classes == {"rich": names}


def test_yes_no_and_nothing(tmp_path: Path) -> None:
    """An empty cell is a missing label, and a fault where none may be missing."""
    rows = [ROWS[0], "Rome,1,1,,a", *ROWS[1:]]
    made = load(of_table(tmp_path, rows, [RICH | {"missing": "skip"}]), tmp_path)
    found = made.train.targets["rich"].flatten()
    assert found.isnan().tolist() == [True, *[False] * 5]
    assert found[1:].tolist() == [0, 1, 1, 1, 0]
    (line,) = faults(of_table(tmp_path, rows, [RICH]), tmp_path)
    assert line.startswith(
        "a.csv, row 2, column rich: found an empty cell; every row needs a class"
    )


def test_texts_of_which_it_is_not_plain_which_is_1(tmp_path: Path) -> None:
    """Other texts, and a mixture of the pairs, are refused with what to do."""
    for word in ("sick", "true"):
        rows = [line.replace("yes", word) for line in ROWS]
        (line,) = faults(of_table(tmp_path, rows, [RICH]), tmp_path)
        assert line == (
            'a.csv, column rich: found texts, such as "no"; binary_cross_entropy needs 0 or 1, no '
            "or yes, false or true; store 0 and 1, or set the loss to cross_entropy with outputs 2"
        )
