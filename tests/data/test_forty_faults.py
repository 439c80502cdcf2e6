"""Deliberate faults of tables, sensors, images and splits, each with the one line that names it.

Others are held where their rule is tested: cells, levels and columns in test_columns, labels and
shapes and kinds of files in test_data, groups and shares in test_split, bars in test_bars, the spec
alone in tests/spec/test_explain.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from job.data.dataset import load
from job.errors import InputError
from job.spec.read import parse_spec

HEADER = "site,depth,flow,level,storm,part"
ROWS = [
    f"{'ABC'[i % 3]},{i}.5,{i * 2},{i / 4},{i % 2},{'train' if i < 8 else 'validation'}"
    for i in range(12)
]
ROW_3 = "B,1.5,2,0.25,1,train"
FLOW = {"name": "flow", "level": "sample", "loss": {"kind": "mse"}}
STORM = {"name": "storm", "level": "sample", "outputs": 2, "loss": {"kind": "cross_entropy"}}
RAIN = {"name": "storm", "level": "sample", "loss": {"kind": "binary_cross_entropy"}}
COLUMNS: dict[str, Any] = {"path": "a.csv", "features": ["site", "depth"]}


def job(*tasks: dict[str, Any], gates: Any = (), train: Any = (), **data: Any) -> dict[str, Any]:
    """A spec of arrays in a.npz with two tasks."""
    return {
        "name": "t",
        "data": {"kind": "arrays", "path": "a.npz", "split": "tail"} | data,
        "tasks": list(tasks or (FLOW, STORM)),
        "train": {"epochs": 1, "batch_size": 4} | dict(train),
        "gates": list(gates),
    }


def table(*tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The same of a table."""
    return job(*tasks, **COLUMNS | more)


def rows(third: str = ROW_3, header: str = HEADER, **changes: str) -> str:
    """A CSV, its third row or its header given; changes: what a column holds in every row."""
    places = {header.split(",").index(name): value for name, value in changes.items()}
    lines = [ROWS[0], third, *ROWS[2:]]
    cells = [[places.get(j, cell) for j, cell in enumerate(line.split(","))] for line in lines]
    return "\n".join([header, *(",".join(each) for each in cells)]) + "\n"


def arrays(**changes: Any) -> dict[str, Any]:
    """12 samples of 5 steps."""
    rng = np.random.default_rng(0)
    storm = np.arange(12) % 2
    return {"features": rng.normal(size=(12, 5, 3)), "flow": np.arange(12.0), "storm": storm} | (
        changes
    )


def unnamed(*stored: Any) -> bytes:
    """An .npz of arrays that got no names."""
    file = io.BytesIO()
    np.savez(file, *stored)
    return file.getvalue()


def auroc(**more: Any) -> dict[str, Any]:
    """A gate on a metric."""
    return {"task": "storm", "metric": "auroc", "above": 0.5, "by_epoch": 1} | more


NO_SUCH_ENDING = (
    "must end in .npz or .safetensors or .parquet or .csv or .csv.gz; write the data in one of "
    "these formats"
)
NO_LABEL = "every task needs labels, of a weight above 0, in each split; supply labels, or drop the"
NO_NUMBER = "must be a number; correct it, or empty the cell"
SKIP = 'correct the data, or set $.tasks[0].missing to "skip" if these are missing labels'

FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # --- the file of a table ------------------------------------------------------------------
    "an export with semicolons and decimal commas": (
        table(),
        {"a.csv": rows().replace(",", ";").replace(".", ",")},
        "a.csv: found cells separated by semicolons; must be separated by commas, and numbers have "
        "a decimal point; export the file like that",
    ),
    "an export in Latin-1": (
        table(),
        {"a.csv": rows("Ä" + ROW_3[1:]).encode("latin-1")},
        "a.csv, row 3: found byte 0xc4, which is no UTF-8; must be a CSV in UTF-8; save it as "
        "UTF-8",
    ),
    "an Excel file named .csv": (
        table(),
        {"a.csv": b"\xd0\xcf\x11\xe0" + bytes(99)},
        "a.csv: found an Excel file; must be a valid CSV in UTF-8; export it as CSV",
    ),
    "an Excel file": (
        table(path="a.xlsx"),
        {},
        f'$.data.path: found "a.xlsx"; {NO_SUCH_ENDING}',
    ),
    "a CSV named .parquet": (
        table(path="a.parquet"),
        {"a.parquet": rows().encode()},
        "a.parquet: found plain text; must be a valid Parquet file; write the file anew, or name "
        "the right one",
    ),
    "a header and no rows": (
        table(),
        {"a.csv": HEADER + "\n"},
        "a.csv: found 0 rows; a split needs 2 or more; supply more data",
    ),
    "blank lines": (
        table(),
        {"a.csv": "\n\n\n"},
        "a.csv: found blank lines; must hold a header and rows; add them",
    ),
    "no header": (
        table(),
        {"a.csv": "\n".join(ROWS)},
        'a.csv: found a column named "0.5", and none that the spec names; the first row names the '
        "columns; add a row of names",
    ),
    "a URL": (
        table(path="https://example.org/a.csv"),
        {},
        "https://example.org/a.csv: found a URL; data is a file or s3://bucket/key; download it "
        "and name the file",
    ),
    # --- its cells ----------------------------------------------------------------------------
    "a number with a comma, not quoted": (
        table(),
        {"a.csv": rows("B,1,5,2,0.25,1,train")},
        "a.csv, row 3: found 7 cells; the header has 6; give every column one name and one cell; a "
        "number with a comma makes two cells",
    ),
    "a quote that is not closed": (
        table(),
        {"a.csv": rows('"' + ROW_3)},
        "a.csv, row 3: found 1 cell; the header has 6; close the quote in it",
    ),
    "a thousands mark": (
        table(),
        {"a.csv": rows('B,"1,500",2,0.25,1,train')},
        'a.csv, row 3, column depth: found a thousands mark, "1,500"; must be a number like '
        "1234.5; write all numbers like that",
    ),
    "a percent sign": (
        table(),
        {"a.csv": rows("B,15%,2,0.25,1,train")},
        'a.csv, row 3, column depth: found a currency or percent sign, "15%"; must be a number '
        "like 1234.5; write all numbers like that",
    ),
    "a unit in a cell": (
        table(),
        {"a.csv": rows("B,1.5 m,2,0.25,1,train")},
        f'a.csv, row 3, column depth: found "1.5 m"; {NO_NUMBER}',
    ),
    "an error of a spreadsheet": (
        table(),
        {"a.csv": rows("B,#DIV/0!,2,0.25,1,train")},
        f'a.csv, row 3, column depth: found "#DIV/0!"; {NO_NUMBER}',
    ),
    "an infinity": (
        table(),
        {"a.csv": rows("B,inf,2,0.25,1,train")},
        f'a.csv, row 3, column depth: found "inf"; {NO_NUMBER}',
    ),
    "a column without values": (
        table(),
        {"a.csv": rows(depth="")},
        "a.csv, row 2, column depth: found an empty cell, in 12 rows; every row needs a value; "
        'fill it in, or set data.missing to "mean" or "indicator"',
    ),
    "rows of a remark alone": (
        table(features=["depth", "level"]),
        {"a.csv": rows() + "end,,,,,\n" * 2},
        "a.csv, row 14, column depth: found an empty cell, in 2 rows, as in level; every row needs "
        'a value; fill it in, or set data.missing to "mean" or "indicator"',
    ),
    "one word in many rows": (
        table(),
        {"a.csv": rows() + "B,n.d.,2,0.25,1,train\n" * 3},
        f'a.csv, row 14, column depth: found "n.d.", in 3 rows; {NO_NUMBER}',
    ),
    "days as categories": (
        table(),
        {"a.csv": rows("B,2024-02-02,2,0.25,1,train", depth="2024-02-01")},
        'a.csv, column depth: found dates, such as "2024-02-01"; must hold numbers or categories; '
        "convert them to numbers, such as days since a date",
    ),
    # --- its columns --------------------------------------------------------------------------
    "a feature with a slip in its name": (
        table(features=["site", "dept"]),
        {"a.csv": rows()},
        '$.data.features[1]: found "dept"; the data has site, depth, flow, level, storm, part; did '
        'you mean "depth"?',
    ),
    "a target twice": (
        table(),
        {"a.csv": rows(header=HEADER.replace("level", "flow"))},
        "a.csv, column flow: found 2 columns of that name; a name stands for one; rename or remove "
        "the others",
    ),
    "a feature that the validation file calls otherwise": (
        table(validation={"path": "v.csv"}),
        {"a.csv": rows(), "v.csv": rows(header=HEADER.replace("depth", "deep"))},
        '$.data.features[1]: found "depth"; the data has site, deep, flow, level, storm, part; did '
        'you mean "deep"?',
    ),
    "texts in the validation file": (
        table(validation={"path": "v.csv"}),
        {"a.csv": rows(), "v.csv": rows("B,low,2,0.25,1,train", depth="high")},
        "v.csv, column depth: found texts; the training split has numbers there; write both files "
        "alike",
    ),
    "a list in a column": (
        table(path="a.parquet"),
        {"a.parquet": {"site": ["A"], "depth": [[1.0]], "flow": [1.0], "storm": [0]}},
        "a.parquet, column depth: found type list<element: double>; must hold numbers or texts; "
        "convert it; a date to a number, such as days since another",
    ),
    # --- labels -------------------------------------------------------------------------------
    "a label left out": (
        table(),
        {"a.csv": rows("B,1.5,NA,0.25,1,train")},
        "a.csv, row 3, column flow: found nan; must be a finite number in float32; " + SKIP,
    ),
    "no labels at all": (
        table(FLOW | {"missing": "skip"}),
        {"a.csv": rows(flow="")},
        "$.tasks[0].target: found no label in the 10 samples of the training and the 2 samples of "
        f'the validation split of "flow"; {NO_LABEL} task',
    ),
    "a class that is no whole number": (
        table(),
        {"a.csv": rows("B,1.5,2,0.25,0.5,train")},
        "a.csv, row 3, column storm: found 0.5; cross_entropy needs classes, whole numbers from 0; "
        "correct the data",
    ),
    "a class beyond all bounds": (
        table(STORM),
        {"a.csv": rows("B,1.5,2,0.25,99999999,train")},
        "$.tasks[0].outputs: found class 99999999 at a.csv, row 3, column storm; outputs = 2 means "
        "classes 0 … 1; correct the data",
    ),
    "a class left out of those to stratify by": (
        table(split={"stratified": "storm"}),
        {"a.csv": rows("B,1.5,2,0.25,,train")},
        "a.csv, row 3, column storm: found no value; the split needs a value in every row; fill it "
        'in, or set $.tasks[1].missing to "skip"',
    ),
    "values that were never measured": (
        job(),
        {"a.npz": arrays(features=np.full((12, 5, 3), np.nan))},
        "a.npz, row 0, column features[0, 0]: found nan, in 180 values; must be a finite number in "
        'float32; correct the data, or set data.missing to "mean" or "indicator"',
    ),
    "names of categories among numbers": (
        job(),
        {"a.npz": arrays(features=np.array([["red", "blue"]] * 12))},
        'a.npz, column features: found texts; an input of kind "numbers" must hold numbers; store '
        'numbers, or set the kind of this input to "codes" in data.inputs',
    ),
    "a sentinel among the classes": (
        job(STORM | {"missing": "skip"}),
        {"a.npz": arrays(storm=np.where(np.arange(12) == 3, -999, 0))},
        "a.npz, row 3, column storm: found -999; cross_entropy needs classes, whole numbers from "
        "0; correct the data",
    ),
    "probabilities for 0/1 labels": (
        job(RAIN),
        {"a.npz": arrays(storm=np.arange(12) / 8 % 1)},
        "a.npz, row 1, column storm: found 0.125 and 6 other numbers, in 10 values; "
        "binary_cross_entropy needs 0 or 1; correct the data",
    ),
    "masks of bytes": (
        job(RAIN),
        {"a.npz": arrays(storm=(np.arange(12) % 2 * 255).astype(np.uint8))},
        "a.npz, row 1, column storm: found 255, in 6 values; binary_cross_entropy needs 0 or 1; "
        "correct the data",
    ),
    "words for 0/1 labels": (
        table(RAIN | {"target": "part"}),
        {"a.csv": rows()},
        'a.csv, column part: found texts, such as "train"; binary_cross_entropy needs 0 or 1, no '
        "or yes, false or true; store 0 and 1, or set the loss to cross_entropy with outputs 2",
    ),
    "a class that only the validation file has": (
        table(STORM | {"target": "part"}, validation={"path": "v.csv"}),
        {"a.csv": rows(), "v.csv": rows(part="late")},
        'v.csv, row 2, column part: found "late"; the classes are "train", "validation"; correct '
        "the data",
    ),
    # --- weights ------------------------------------------------------------------------------
    "weights that are all 0": (
        table(FLOW | {"sample_weight": "level"}),
        {"a.csv": rows(level="0")},
        "$.tasks[0].target: found no label in the 10 samples of the training and the 2 samples of "
        f'the validation split of "flow"; {NO_LABEL} task',
    ),
    "a weight left out": (
        table(FLOW | {"sample_weight": "level"}),
        {"a.csv": rows("B,1.5,2,,1,train")},
        "a.csv, row 3, column level: found nan; must be a finite number in float32; correct the "
        "data",
    ),
    "words for weights": (
        table(FLOW | {"sample_weight": "part"}),
        {"a.csv": rows()},
        '$.tasks[0].sample_weight: found texts in "part"; a weight is a number of 0 or above; name '
        "an array or column of numbers",
    ),
    "a weight for a class too many": (
        table(STORM | {"class_weight": [1, 2, 3]}),
        {},
        "$.tasks[0].class_weight: found [1, 2, 3]; cross_entropy needs 2 weights, one for each "
        "class; there are 3; write 2 weights",
    ),
    "a weight of torch": (
        table(RAIN | {"pos_weight": 3}),
        {},
        "$.tasks[0].pos_weight: found 3; there is no such key; did you mean `class_weight`?",
    ),
    "class weights of a regression": (
        table(FLOW | {"class_weight": "balanced"}),
        {},
        '$.tasks[0].class_weight: found "balanced"; mse has no classes to weigh; remove '
        "class_weight; sample_weight gives each sample a weight",
    ),
    # --- arrays of sensors and images ---------------------------------------------------------
    "arrays that got no names": (
        job(),
        {"a.npz": unnamed(np.ones((12, 3)), np.ones(12))},
        "a.npz: found arrays without names; every array needs a name; name them: "
        "numpy.savez(path, features=…)",
    ),
    "samples along the second axis": (
        job(),
        {"a.npz": arrays(features=np.ones((5, 12, 3)))},
        "a.npz: found 5 rows of features, and 12 of every target; a sample is one row of all "
        "arrays; store the samples along the first axis",
    ),
    "steps and sensors swapped": (
        job(FLOW | {"level": "step"}),
        {"a.npz": arrays(features=np.ones((12, 3, 5)), flow=np.ones((12, 5)))},
        '$.tasks[0].target: found "flow" of shape [12, 5]; a step task of mse with 1 output needs '
        "[12, 3] or [12, 3, 1]; store a target of that shape",
    ),
    "sequences of different lengths": (
        job(),
        {"a.npz": arrays(features=np.array([np.ones((i + 1, 3)) for i in range(12)], object))},
        "a.npz, column features: found Python objects; must hold numbers; store it as numbers",
    ),
    "an overflow in float16": (
        job(),
        {"a.npz": arrays(features=np.full((12, 5, 3), np.inf, np.float16))},
        "a.npz, row 0, column features[0, 0]: found inf, in 180 values; must be a finite number in "
        "float32; correct the data",
    ),
    "times as a target": (
        job(),
        {"a.npz": arrays(flow=np.arange(12).astype("datetime64[s]"))},
        "a.npz, column flow: found dates; must hold numbers; store numbers, such as days since a "
        "date",
    ),
    "images whose channels are not named": (
        job(inputs={"photo": {"kind": "image"}}),
        {"a.npz": arrays(photo=np.zeros((12, 3, 8, 8), np.uint8))},
        "a.npz, column photo: found shape [12, 3, 8, 8]; an image must be [N, H, W], or with "
        'channels "first" or "last" of four axes; store them in one of these shapes',
    ),
    "an archive that was cut off": (
        job(),
        {"a.npz": unnamed(np.ones((12, 3)))[:-60]},
        "a.npz: found damaged or cut off data; must be a valid .npz; write the file anew, or name "
        "the right one",
    ),
    "a pickle": (
        job(path="a.pkl"),
        {},
        f'$.data.path: found "a.pkl"; {NO_SUCH_ENDING}',
    ),
    # --- splits -------------------------------------------------------------------------------
    "the training file to validate on": (
        job(validation={"path": "./a.npz"}),
        {},
        '$.data.validation.path: found "./a.npz"; the samples held out must not be those of the '
        "training; name another file, or a share",
    ),
    "one file to validate and to test on": (
        job(validation={"path": "v.npz"}, test={"path": "v.npz"}),
        {},
        '$.data.test.path: found "v.npz"; the samples of the test must not be those of the '
        "validation; name another file, or a share",
    ),
    "shares that leave nothing": (
        job(validation=0.2, test=0.9),
        {},
        "$.data.test: found 0.9; with validation = 0.2 nothing is left to train on; lower one of "
        "the two",
    ),
    "a share in percent": (
        job(validation=20),
        {},
        "$.data.validation: found 20; must be less than 1; lower it",
    ),
    "strata of numbers": (
        job(split={"stratified": "flow"}),
        {},
        '$.data.split.stratified: found "flow"; flow has not one class per sample; name a window '
        "task of cross_entropy, or of binary_cross_entropy with one output",
    ),
    "a split by a word that is none": (
        table(split={"column": "part"}),
        {"a.csv": rows(part="valid")},
        'a.csv, row 2, column part: found "valid", and 11 more; must be train, validation or test, '
        "or 0, 1 or 2; correct it",
    ),
    "a group left out": (
        table(split={"group": "part"}),
        {"a.csv": rows("B,1.5,2,0.25,1,")},
        "a.csv, row 3, column part: found no value; the split needs a value in every row; fill it "
        "in",
    ),
    "bytes here and numbers there": (
        job(validation={"path": "v.npz"}),
        {
            "a.npz": arrays(features=np.ones((12, 5, 3), np.uint8)),
            "v.npz": arrays(features=np.ones((12, 5, 3), np.int64)),
        },
        "v.npz, features: found int64; a.npz has uint8, in which 1 is another number; store both "
        "in one type",
    ),
    # --- gates and sizes ----------------------------------------------------------------------
    "a gate on a metric that is not measured": (
        job(gates=[auroc()]),
        {},
        '$.gates[0].metric: found "auroc"; the task "storm" measures accuracy, macro_f1, '
        "calibration_error; name one of these",
    ),
    "a metric of classes for a number": (
        job(FLOW | {"metrics": ["auroc"]}),
        {},
        '$.tasks[0].metrics[0]: found "auroc"; mse has no such metric; it has mae, rmse, r2; name '
        "one of these",
    ),
    "one class to validate on": (
        job(RAIN, gates=[auroc()]),
        {"a.npz": arrays(storm=(np.arange(12) < 9).astype(int))},
        '$.gates[0].metric: found "auroc"; it needs both ones and zeros, which the validation '
        "split lacks; split in another way, or drop the gate",
    ),
    "one value to validate on": (
        job(FLOW, gates=[auroc(task="flow", metric="r2")]),
        {"a.npz": arrays(flow=np.minimum(np.arange(12.0), 9))},
        '$.gates[0].metric: found "r2"; it needs targets that differ, which the validation split '
        "lacks; split in another way, or drop the gate",
    ),
    "a skill in percent": (
        job(gates=[{"task": "flow", "skill": 20, "by_epoch": 1}]),
        {},
        "$.gates[0].skill: found 20; must be less than 1; lower it",
    ),
    "a batch larger than the data": (
        job(train={"batch_size": 64}),
        {"a.npz": arrays()},
        "$.train.batch_size: found 64; the training set has 10 samples; set it to 10 or less",
    ),
}
"""By what was done: the spec, its files, and the line."""


def found(spec: dict[str, Any], files: dict[str, Any], folder: Path) -> list[str]:
    """The lines of the faults of a spec and its files; [] if there are none."""
    for name, content in files.items():
        if isinstance(content, dict) and name.endswith(".npz"):
            np.savez(folder / name, allow_pickle=True, **content)
        elif isinstance(content, dict):
            pq.write_table(pa.table(content), folder / name)
        else:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        load(parse_spec(json.dumps(spec)), folder, test=True)
    except InputError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line(tmp_path: Path, name: str) -> None:
    """It says where, what was found, the rule and the remedy, and nothing else is printed."""
    spec, files, line = FAULTS[name]
    assert found(spec, files, tmp_path) == [line]


@pytest.mark.parametrize(
    ("spec", "files"),
    [
        (table(), {"a.csv": rows()}),
        (table(), {"a.csv": b"\xef\xbb\xbf" + rows().encode()}),
        (table(), {"a.csv": rows('"B, at\nnoon",1.5,2,0.25,1,train')}),
        (table(RAIN, gates=[auroc()]), {"a.csv": rows()}),
        (table(features=["4*", "site"]), {"a.csv": rows(header=HEADER.replace("depth", "405.5"))}),
        (job(), {"a.npz": arrays(features=np.ones((12, 5, 3), np.float16))}),
        (job(validation={"path": "v.npz"}), {"a.npz": arrays(), "v.npz": arrays()}),
    ],
)
def test_what_is_no_fault(tmp_path: Path, spec: dict[str, Any], files: dict[str, Any]) -> None:
    """The spec and the files that the faults are made of; and what only looks like a fault: the
    mark of an encoding at the start, a quoted newline, numbers as names, small floats."""
    assert found(spec, files, tmp_path) == []
