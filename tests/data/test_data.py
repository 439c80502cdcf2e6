"""Loading: the shipped bars, arrays in every format, and the faults of a spec's data."""

from __future__ import annotations

import itertools
import json
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from job.data.dataset import Dataset, load, overlap
from job.errors import InputError
from job.spec import JobSpec
from job.store import Unavailable, open_store
from tests.support.faulty_proxy import Proxy

DOCKER = Path(__file__).parents[2] / "docker"
Array = NDArray[Any]


def task(name: str, level: str = "window", loss: str = "mse", **more: Any) -> dict[str, Any]:
    return {"name": name, "level": level, "loss": {"kind": loss}, **more}


BAR_TASKS = [
    task("type", "window", "cross_entropy", outputs=3),
    task("pointers", outputs=2),
    task("binary", "step", "binary_cross_entropy"),
    task("countdown", "step", "mae"),
    task("scalar", target="start"),
]
ARRAY_TASKS = [
    task("kind", "window", "cross_entropy", outputs=3),
    task("tags", "step", "cross_entropy", outputs=2),
    task("level"),
    task("pair", outputs=2),
    task("path", "step"),
    task("flags", "step", "binary_cross_entropy", outputs=2),
]


def spec(data: dict[str, Any], tasks: list[dict[str, Any]], **more: Any) -> JobSpec:
    whole = {"name": "t", "data": data, "tasks": tasks, "train": {"epochs": 1, "batch_size": 4}}
    return JobSpec.model_validate_json(json.dumps({**whole, **more}))


def of_bars(tasks: list[dict[str, Any]] = BAR_TASKS, **data: Any) -> JobSpec:
    path = {"path": "nasdaq.csv.gz", "date_format": "%m/%d/%Y"}
    return spec({"kind": "ohlc_windows", **path, **data}, tasks)


def of_arrays(
    path: str = "a.npz", tasks: list[dict[str, Any]] = ARRAY_TASKS, seed: int = 0, **data: Any
) -> JobSpec:
    return spec({"kind": "arrays", "path": path, "split": "tail", **data}, tasks, seed=seed)


def arrays(n: int = 10, steps: int = 3) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        "features": rng.normal(size=(n, steps, 2)),
        "kind": np.arange(n) % 3,
        "tags": rng.integers(0, 2, (n, steps)).astype(np.uint8),
        "level": rng.normal(size=n).astype(np.float32),
        "pair": rng.integers(-5, 5, (n, 2)).astype(np.int32),
        "path": rng.normal(size=(n, steps)),
        "flags": rng.random((n, steps, 2)) < 0.5,
    }


def save(path: Path, stored: dict[str, Any]) -> None:
    if path.suffix == ".npz":
        np.savez(path, **stored)
    elif path.suffix == ".safetensors":
        safetensors.numpy.save_file(stored, path)
    else:
        pq.write_table(pa.table({k: pa.array(v.tolist()) for k, v in stored.items()}), path)


def faults(spec: JobSpec, folder: Path) -> list[str]:
    with pytest.raises(InputError) as error:
        load(spec, folder)
    return str(error.value).splitlines()


def same(one: Dataset, other: Dataset) -> None:
    for a, b in ((one.train, other.train), (one.validation, other.validation)):
        assert a.targets.keys() == b.targets.keys()
        pairs = [
            (a.inputs["features"], b.inputs["features"]),
            *((a.targets[k], b.targets[k]) for k in a.targets),
        ]
        for x, y in pairs:
            assert x.dtype == y.dtype
            assert torch.equal(x, y)


# --- bars -------------------------------------------------------------------------------------


def test_shipped_bars() -> None:
    """The shipped bars become 168 and 42 windows, each target in its task's shape and type."""
    made = load(of_bars(windows=210), DOCKER)
    assert made.rows == 5031
    assert made.source == "nasdaq.csv.gz"
    assert made.skipped == {"bars without history": 20, "bars in the gap before validation": 105}
    for split, n in ((made.train, 168), (made.validation, 42)):
        assert split.overlap == 5  # they begin every 22 or 23 bars
        assert split.inputs["features"].shape == (n, 105, 12)
        assert split.inputs["features"].dtype == torch.float32
        assert {k: (tuple(v.shape), v.dtype) for k, v in split.targets.items()} == {
            "type": ((n,), torch.int64),
            "pointers": ((n, 2), torch.float32),
            "binary": ((n, 105, 1), torch.float32),
            "countdown": ((n, 105, 1), torch.float32),
            "scalar": ((n, 1), torch.float32),
        }


def test_every_window() -> None:
    """Without a number of windows there is one at every bar, and those left out are counted."""
    made = load(of_bars(), DOCKER)
    n = len(made.train) + len(made.validation)
    assert n + made.skipped["windows across the split"] == 5031 - 105 + 1 - 20
    assert (made.train.overlap, made.validation.overlap) == (105, 105)


@given(
    starts=st.lists(st.integers(0, 60), min_size=1, max_size=30, unique=True).map(sorted),
    span=st.integers(1, 20),
)
def test_overlap(starts: list[int], span: int) -> None:
    """Samples that share a row are fewer than `overlap` places apart, and some are one less."""
    sharing = [
        k - i
        for i, first in enumerate(starts)
        for k, second in enumerate(starts)
        if first <= second < first + span
    ]
    assert overlap(np.array(starts), span) == max(sharing) + 1


def test_loading_is_deterministic() -> None:
    """Two loads give the same bits."""
    same(load(of_bars(windows=50), DOCKER), load(of_bars(windows=50), DOCKER))


def test_bad_bars_and_bad_tasks_at_once(tmp_path: Path) -> None:
    """Faults of the file and of targets that bars do not have come together."""
    (tmp_path / "b.csv").write_text("Date,Open,High,Low,Close\n2024-01-01,1,1,1,x\n")
    lines = faults(of_bars([task("countdwn", "step")], path="b.csv", date_format=None), tmp_path)
    assert lines[0].startswith('b.csv, row 2, column close: found "x"')
    assert lines[1].startswith('$.tasks[0].target: found "countdwn"; the data has type, pointers')
    assert lines[1].endswith('did you mean "countdown"?')


def test_class_outside_the_head() -> None:
    """A class without an output gives a line with the edit that adds one."""
    (line,) = faults(of_bars([task("type", "window", "cross_entropy", outputs=2)]), DOCKER)
    assert line.startswith("$.tasks[0].outputs: found class 2 at nasdaq.csv.gz, window ")
    assert "outputs = 2 means classes 0 … 1; set outputs to 3" in line


# --- arrays -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
def test_formats_agree(tmp_path: Path, suffix: str) -> None:
    """The three formats give the same data, in the shape and type that each task needs."""
    stored = arrays()
    save(tmp_path / f"a{suffix}", {**stored, "unread": np.zeros(3 if suffix != ".parquet" else 10)})
    made = load(of_arrays(f"a{suffix}"), tmp_path)
    assert (made.rows, made.skipped) == (10, {})
    shapes = {k: (tuple(v.shape), v.dtype) for k, v in made.train.targets.items()}
    assert shapes == {
        "kind": ((8,), torch.int64),
        "tags": ((8, 3), torch.int64),
        "level": ((8, 1), torch.float32),
        "pair": ((8, 2), torch.float32),
        "path": ((8, 3, 1), torch.float32),
        "flags": ((8, 3, 2), torch.float32),
    }
    for split, rows in ((made.train, slice(8)), (made.validation, slice(8, 10))):
        assert torch.equal(split.inputs["features"], torch.tensor(stored["features"][rows]).float())
        for name, values in split.targets.items():
            expected = torch.tensor(stored[name][rows]).reshape(values.shape)
            assert torch.equal(values, expected.to(values.dtype))


def test_flat_features(tmp_path: Path) -> None:
    """[N, F] is read as one step; a per-step target may leave that axis out."""
    save(tmp_path / "a.npz", {"x": np.ones((5, 4), np.int64), "y": np.arange(5.0)})
    tasks = [task("a", "step", target="y"), task("b", target="y")]
    made = load(of_arrays(tasks=tasks, features="x"), tmp_path)
    assert made.train.inputs["features"].shape == (4, 1, 4)
    assert made.train.targets["a"].shape == (4, 1, 1)
    assert made.train.targets["b"].tolist() == [[0], [1], [2], [3]]


def test_classes_as_floats(tmp_path: Path) -> None:
    """Whole numbers stored as floats are classes."""
    save(tmp_path / "a.npz", {"features": np.ones((5, 4)), "y": np.array([0.0, 1, 2, 1, 0])})
    made = load(of_arrays(tasks=[task("y", "window", "cross_entropy", outputs=3)]), tmp_path)
    assert made.train.targets["y"].tolist() == [0, 1, 2, 1]


def test_small_floats(tmp_path: Path) -> None:
    """bfloat16, which numpy lacks, is read."""
    stored = {"features": torch.ones(5, 4, dtype=torch.bfloat16), "y": torch.arange(5)}
    safetensors.torch.save_file(stored, tmp_path / "a.safetensors")
    made = load(of_arrays("a.safetensors", [task("y")]), tmp_path)
    assert torch.equal(made.train.inputs["features"], torch.ones(4, 1, 4))


def test_random_split(tmp_path: Path) -> None:
    """A random split holds every sample once, follows the seed, and differs from the tail."""
    save(tmp_path / "a.npz", {"features": np.ones((50, 1)), "y": np.arange(50)})

    def held_out(seed: int) -> set[float]:
        made = load(of_arrays(tasks=[task("y")], split="random", seed=seed), tmp_path)
        train, validation = (
            set(part.targets["y"].flatten().tolist()) for part in (made.train, made.validation)
        )
        assert train | validation == set(range(50))
        assert len(validation) == 10
        return validation

    assert held_out(1) == held_out(1)
    assert held_out(1) != held_out(2)
    assert held_out(1) != set(range(40, 50))


def test_the_draw_may_have_its_own_seed(tmp_path: Path) -> None:
    """`data.seed` alone decides who is held out; the job's seed does where there is none."""
    save(tmp_path / "a.npz", {"features": np.ones((50, 1)), "y": np.arange(50)})

    def held_out(seed: int, own: int | None) -> Tensor:
        data = {"kind": "arrays", "path": "a.npz", "split": "random", "seed": own}
        made = load(spec(data, [task("y")], seed=seed), tmp_path)
        return made.validation.targets["y"]

    assert torch.equal(held_out(1, 7), held_out(2, 7))
    assert torch.equal(held_out(1, 7), held_out(7, None))
    assert not torch.equal(held_out(1, 7), held_out(1, None))


@pytest.mark.parametrize("split", ["tail", "random"])
def test_samples_of_arrays_share_nothing(tmp_path: Path, split: str) -> None:
    """Each is a row of its own, whoever is held out."""
    save(tmp_path / "a.npz", {"features": np.ones((50, 1)), "y": np.arange(50)})
    made = load(of_arrays(tasks=[task("y")], split=split), tmp_path)
    assert (made.train.overlap, made.validation.overlap) == (1, 1)


@pytest.mark.parametrize("split", ["tail", "random"])
def test_a_control_permutes_the_targets(tmp_path: Path, split: str) -> None:
    """Within each split, features stay, targets are those of other samples, and all tasks' those
    of the same one; another seed is another permutation."""
    rows = np.arange(50)
    tasks = [task("y"), task("path", "step"), task("kind", "window", "cross_entropy", outputs=50)]
    path = np.repeat(rows[:, None, None], 4, 1)
    save(tmp_path / "a.npz", {"features": path * 1.0, "y": rows, "path": path, "kind": rows})

    def loaded(control: bool, seed: int = 3) -> Dataset:
        data = {"kind": "arrays", "path": "a.npz", "split": split, "seed": 1}
        return load(spec(data, tasks, seed=seed, control=control), tmp_path)

    plain, control, other = loaded(False), loaded(True), loaded(True, seed=4)
    for mine, permuted, again in (
        (plain.train, control.train, other.train),
        (plain.validation, control.validation, other.validation),
    ):
        assert torch.equal(permuted.inputs["features"], mine.inputs["features"])
        assert (permuted.overlap, mine.overlap) == (1, 1)
        given, got = mine.targets["kind"], permuted.targets["kind"]
        assert not torch.equal(got, given)
        assert torch.equal(got.sort().values, given.sort().values)
        assert torch.equal(permuted.targets["y"], got[:, None].float())
        assert torch.equal(permuted.targets["path"], got[:, None, None].expand(-1, 4, 1).float())
        assert not torch.equal(again.targets["kind"], got)
    same(control, loaded(True))


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_missing_labels_are_kept_where_they_may_be(tmp_path: Path, ending: str) -> None:
    """NaN, or −1 and NaN among classes, stand in the targets as NaN and as −1; sample weights come
    with them, in the order of the labels in a control too."""
    rows = np.arange(20.0)
    level = np.where(rows % 3 == 0, np.nan, rows)
    kind = np.where(rows % 4 == 0, -1, np.where(rows % 5 == 0, np.nan, rows % 2))
    stored = {"features": np.ones((20, 1)), "level": level, "kind": kind, "w": rows}
    save(tmp_path / f"a{ending}", stored)
    skip = {"missing": "skip", "sample_weight": "w"}
    tasks = [task("level", **skip), task("kind", "window", "cross_entropy", outputs=2, **skip)]
    for control in (False, True):
        whole = of_arrays(f"a{ending}", tasks).model_copy(update={"control": control})
        made = load(whole, tmp_path).train
        at = made.weights["level"].long()
        expected = torch.from_numpy(level[at]).float()
        torch.testing.assert_close(
            made.targets["level"].flatten(), expected, rtol=0, atol=0, equal_nan=True
        )
        assert made.targets["kind"].tolist() == np.nan_to_num(kind[at], nan=-1).tolist()
        assert made.targets["kind"].dtype == torch.int64
        assert torch.equal(made.weights["kind"], made.weights["level"])


def test_missing_labels_of_a_table(tmp_path: Path) -> None:
    """An empty cell is a missing label, of a class too; a column of weights is no feature."""
    levels = ["" if i % 3 == 1 else str(i) for i in range(20)]
    kinds = ["" if i % 4 == 1 else "ab"[i % 2] for i in range(20)]
    lines = [f"{i},{i},{levels[i]},{kinds[i]}" for i in range(20)]
    (tmp_path / "a.csv").write_text("\n".join(["x,w,level,kind", *lines]) + "\n")
    skip = {"missing": "skip", "sample_weight": "w"}
    tasks = [task("level", **skip), task("kind", "window", "cross_entropy", outputs=2, **skip)]
    made = load(of_arrays("a.csv", tasks, features=["*"]), tmp_path)
    assert made.inputs["features"].names == ("x",)
    assert made.train.targets["level"].isnan().flatten().tolist() == [i % 3 == 1 for i in range(16)]
    assert made.train.targets["kind"].tolist() == [-1 if i % 4 == 1 else i % 2 for i in range(16)]
    assert made.train.weights["kind"].tolist() == list(range(16))
    refused = [task("kind", "window", "cross_entropy", outputs=2)]
    (line,) = faults(of_arrays("a.csv", refused, features=["x"]), tmp_path)
    assert line == (
        "a.csv, row 3, column kind: found an empty cell; every row needs a class; correct the "
        'data, or set $.tasks[0].missing to "skip" if these are missing labels'
    )


@pytest.mark.parametrize(
    ("edits", "stored", "line"),
    [
        (
            {},
            {"level": np.where(np.arange(10) == 2, np.nan, 1)},
            "a.npz, row 2, column level: found nan; must be a finite number in float32; correct "
            'the data, or set $.tasks[0].missing to "skip" if these are missing labels',
        ),
        (
            {"loss": {"kind": "cross_entropy"}, "outputs": 2},
            {"level": np.where(np.arange(10) == 2, -1, 1)},
            "a.npz, row 2, column level: found -1; cross_entropy needs classes, whole numbers from "
            '0; correct the data, or set $.tasks[0].missing to "skip" if these are missing labels',
        ),
        (
            {"missing": "skip"},
            {"level": np.where(np.arange(10) == 2, np.inf, np.nan)},
            "a.npz, row 2, column level: found inf; must be a finite number in float32; correct "
            "the data",
        ),
        (
            {"missing": "skip", "loss": {"kind": "binary_cross_entropy"}},
            {"level": np.where(np.arange(10) == 2, -1, np.nan)},
            "a.npz, row 2, column level: found -1.0; binary_cross_entropy needs 0 or 1; correct "
            "the data",
        ),
        (
            {"missing": "skip"},
            {"level": np.where(np.arange(10) < 8, 1, np.nan)},
            '$.tasks[0].target: found no label in the 2 samples of the validation split of "level";'
            " every task needs labels, of a weight above 0, in each split; supply labels, or drop "
            "the task",
        ),
        (
            {"sample_weight": "w"},
            {"w": np.where(np.arange(10) < 8, 0, 1)},
            '$.tasks[0].target: found no label in the 8 samples of the training split of "level"; '
            "every task needs labels, of a weight above 0, in each split; supply labels, or drop "
            "the task",
        ),
        (
            {"sample_weight": "w"},
            {"w": np.where(np.arange(10) == 3, -0.5, 1)},
            "a.npz, row 3, column w: found -0.5; a weight must be 0 or above; correct the data",
        ),
        (
            {"sample_weight": "w"},
            {"w": np.where(np.arange(10) == 3, np.nan, 1)},
            "a.npz, row 3, column w: found nan; must be a finite number in float32; correct the "
            "data",
        ),
        (
            {"sample_weight": "w"},
            {"w": np.ones((10, 2))},
            '$.tasks[0].sample_weight: found "w" of shape [10, 2]; one weight for each sample needs'
            " [10]; store an array of that shape",
        ),
        (
            {"sample_weight": "v"},
            {"w": np.ones(10)},
            '$.tasks[0].sample_weight: found "v"; the data has level, w; name one of these',
        ),
    ],
)
def test_faults_of_labels_and_weights(
    tmp_path: Path, edits: dict[str, Any], stored: dict[str, Array], line: str
) -> None:
    """Where, what was found, the rule and the remedy."""
    save(tmp_path / "a.npz", {"features": np.ones((10, 1)), "level": np.arange(10.0)} | stored)
    (found,) = faults(of_arrays(tasks=[task("level") | edits]), tmp_path)
    assert found == line


def test_a_control_of_windows() -> None:
    """Windows keep their bars and the rows that they share, and get the labels of others."""
    plain = load(of_bars(windows=60), DOCKER)
    control = load(of_bars(windows=60).model_copy(update={"control": True}), DOCKER)
    for mine, permuted in ((plain.train, control.train), (plain.validation, control.validation)):
        assert torch.equal(permuted.inputs["features"], mine.inputs["features"])
        assert permuted.overlap == mine.overlap > 1
        assert not torch.equal(permuted.targets["binary"], mine.targets["binary"])
        assert sorted(permuted.targets["scalar"]) == sorted(mine.targets["scalar"])


@pytest.mark.parametrize(("share", "held_out"), [(0.001, 1), (0.999, 4)])
def test_a_sample_on_each_side(tmp_path: Path, share: float, held_out: int) -> None:
    """However small the share, each split has a sample."""
    save(tmp_path / "a.npz", {"features": np.ones((5, 1)), "y": np.arange(5)})
    data = {"kind": "arrays", "path": "a.npz", "validation": share}
    made = load(spec(data, [task("y")], train={"epochs": 1, "batch_size": 1}), tmp_path)
    assert len(made.validation) == held_out
    assert len(made.train) == 5 - held_out


def changed(name: str, index: tuple[int, ...], value: float) -> dict[str, Array]:
    stored = arrays()
    stored[name] = stored[name].astype(np.float64)
    stored[name][index] = value
    return stored


@pytest.mark.parametrize(
    ("stored", "where", "part"),
    [
        (changed("features", (4, 1, 0), np.nan), "a.npz, row 4, column features[1, 0]", "nan"),
        (changed("features", (4, 1, 0), 1e300), "a.npz, row 4, column features[1, 0]", "1e+300"),
        (changed("level", (7,), np.inf), "a.npz, row 7, column level", "inf; must be a finite"),
        (changed("pair", (9, 1), np.nan), "a.npz, row 9, column pair[1]", "must be a finite"),
        (changed("kind", (2,), np.nan), "a.npz, row 2, column kind", "must be a finite"),
        (changed("kind", (2,), 0.5), "a.npz, row 2, column kind", "0.5; cross_entropy needs"),
        (changed("kind", (2,), -1), "a.npz, row 2, column kind", "-1.0; cross_entropy needs"),
        (changed("kind", (2,), 3), "$.tasks[0].outputs", "class 3 at a.npz, row 2, column kind"),
        (changed("tags", (2, 1), 4), "$.tasks[1].outputs", "row 2, column tags[1]; outputs = 2"),
        (changed("flags", (2, 1, 1), 2), "a.npz, row 2, column flags[1, 1]", "needs 0 or 1"),
        (
            arrays() | {"features": np.ones(())},
            "a.npz, column features",
            "[N], [N, F] or [N, …, F]",
        ),
        (arrays() | {"features": np.ones((10, 3, 0))}, "a.npz, column features", "[10, 3, 0]"),
        (
            arrays() | {"features": np.array(["x"] * 10)},
            "a.npz, column features",
            "found texts",
        ),
        (
            arrays() | {"level": np.array([{}] * 10)},
            "a.npz, column level",
            "Python objects",
        ),
        (
            arrays() | {"level": np.ones(10, complex)},
            "a.npz, column level",
            "complex numbers",
        ),
        (
            arrays() | {"level": np.ones(9)},
            "$.tasks[2].target",
            "10 rows, the target 9 rows",
        ),
        (arrays() | {"level": np.ones((10, 3))}, "$.tasks[2].level", 'set level to "step"'),
        (arrays() | {"path": np.ones(10)}, "$.tasks[4].level", 'set level to "window"'),
        (arrays() | {"pair": np.ones((10, 5))}, "$.tasks[3].outputs", "set outputs to 5"),
        (
            arrays() | {"path": np.ones((10, 4))},
            "$.tasks[4].target",
            "needs [10, 3] or [10, 3, 1]",
        ),
        (arrays(4), "$.train.batch_size", "found 4; the training set has 3 samples; set it to 3"),
    ],
)
def test_one_fault(tmp_path: Path, stored: dict[str, Array], where: str, part: str) -> None:
    """One fault makes one line, with file, row and column, or the JSON path of what to edit."""
    np.savez(tmp_path / "a.npz", allow_pickle=True, **stored)
    (line,) = faults(of_arrays(), tmp_path)
    assert line.startswith(f"{where}: found ")
    assert part in line


def test_all_faults_at_once(tmp_path: Path) -> None:
    """All faults come at once; one line if every value breaks the rule."""
    stored = changed("level", (2,), np.nan) | {
        "kind": np.full(10, 5),
        "path": np.full((10, 3), np.nan),
    }
    del stored["pair"]
    save(tmp_path / "a.npz", stored)
    found = [line.split(": found")[0] for line in faults(of_arrays(), tmp_path)]
    assert found == [
        "$.tasks[3].target",
        "$.tasks[0].outputs",
        "a.npz, row 2, column level",
        "a.npz, row 0, column path[0]",
    ]


def test_unknown_names(tmp_path: Path) -> None:
    """A name that the file lacks gives a line with the nearest name, for features and targets."""
    save(tmp_path / "a.npz", arrays())
    lines = faults(of_arrays(features="feature", tasks=[task("a", target="levl")]), tmp_path)
    assert lines[0].startswith('$.data.features: found "feature"; the data has features, kind')
    assert lines[0].endswith('did you mean "features"?')
    assert lines[1].startswith('$.tasks[0].target: found "levl"')
    assert lines[1].endswith('did you mean "level"?')


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (
            [[1.0], [2.0, 3.0]],
            "a.parquet, row 1, column y: found a list of 2 items, and",
        ),
        ([[[1, 2]], [[1, 2], None]], "row 1, column y: found a list of 2 items"),
        ([[[1], [2]], [[1], None]], "a.parquet, row 1, column y: found an empty value"),
        ([[1, 2], None], "a.parquet, row 1, column y: found an empty value"),
        ([[1, 2], [3, None]], "a.parquet, row 1, column y: found an empty value"),
        (["1", "2"], "a.parquet, column y: found texts; must hold numbers"),
    ],
)
def test_bad_parquet(tmp_path: Path, values: list[Any], part: str) -> None:
    """Lists of unequal lengths, missing values and texts give one line, with the row."""
    table = pa.table({"features": [[1.0], [2.0]], "y": values})
    pq.write_table(table, tmp_path / "a.parquet")
    (line,) = faults(of_arrays("a.parquet", [task("y")]), tmp_path)
    assert part in line


@pytest.mark.parametrize(
    "features",
    [
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(60.0).reshape(10, 3, 2)),
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(60.0, dtype="f4").reshape(10, 3, 2)),
        pa.array(np.arange(60).reshape(10, 3, 2).tolist(), pa.list_(pa.list_(pa.decimal128(9, 2)))),
        pa.array(np.arange(60.0).reshape(10, 6).tolist(), pa.list_(pa.float64(), 6)),
    ],
    ids=["tensor", "float tensor", "decimals", "fixed lists"],
)
def test_columns_of_parquet(tmp_path: Path, features: Any) -> None:
    """Tensors of a fixed shape, decimals and dictionary-encoded numbers are read."""
    classes = pa.array([0, 1] * 5).dictionary_encode()
    level = pa.array([Decimal(i) / 4 for i in range(10)])
    table = pa.table({"features": features, "kind": classes, "level": level})
    pq.write_table(table, tmp_path / "a.parquet")
    tasks = [task("kind", "window", "cross_entropy", outputs=2), task("level")]
    made = load(of_arrays("a.parquet", tasks), tmp_path)
    assert torch.equal(made.train.inputs["features"].flatten(), torch.arange(48.0))
    assert made.train.targets["kind"].tolist() == [0, 1] * 4
    assert made.train.targets["level"].flatten().tolist() == [i / 4 for i in range(8)]


def test_a_permuted_tensor(tmp_path: Path) -> None:
    """A tensor that is stored with its axes in another order is read in its own order."""
    kind = pa.fixed_shape_tensor(pa.float64(), (2, 3), permutation=(1, 0))
    storage = pa.array(np.arange(60.0).reshape(10, 6).tolist(), pa.list_(pa.float64(), 6))
    features = pa.ExtensionArray.from_storage(kind, storage)
    pq.write_table(pa.table({"features": features, "y": np.arange(10.0)}), tmp_path / "a.parquet")
    made = load(of_arrays("a.parquet", [task("y")]), tmp_path)
    assert made.train.inputs["features"].shape == (8, 3, 2)
    assert made.train.inputs["features"][0].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_an_empty_value_in_a_tensor(tmp_path: Path) -> None:
    """A tensor without a value is a fault with its row."""
    kind = pa.fixed_shape_tensor(pa.float64(), (2,))
    storage = pa.array([[1.0, 2], [3, None], [5, 6]], pa.list_(pa.float64(), 2))
    features = pa.ExtensionArray.from_storage(kind, storage)
    pq.write_table(pa.table({"features": features, "y": [1.0, 2, 3]}), tmp_path / "a.parquet")
    (line,) = faults(of_arrays("a.parquet", [task("y")]), tmp_path)
    assert line.startswith("a.parquet, row 1, column features: found an empty value; must hold")


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (pa.array(["a", "b"]).dictionary_encode(), "texts; must hold numbers; store numbers; for"),
        (pa.array([1, 2], pa.timestamp("s")), "dates; must hold numbers; store numbers, such as"),
        (pa.array([{"a": 1}, {"a": 2}]), "type struct<a: int64>; must hold numbers"),
    ],
)
def test_columns_without_numbers(tmp_path: Path, values: pa.Array, found: str) -> None:
    """Texts, dates and records are no numbers; the remedy names what to store."""
    pq.write_table(pa.table({"features": [[1.0], [2.0]], "y": values}), tmp_path / "a.parquet")
    (line,) = faults(of_arrays("a.parquet", [task("y")]), tmp_path)
    assert line.startswith(f"a.parquet, column y: found {found}")


def test_one_hot_classes(tmp_path: Path) -> None:
    """One value for each class in place of class numbers is named as that."""
    save(tmp_path / "a.npz", {"features": np.ones((9, 4)), "y": np.eye(3)[np.arange(9) % 3]})
    (line,) = faults(of_arrays(tasks=[task("y", "window", "cross_entropy", outputs=3)]), tmp_path)
    assert line == (
        '$.tasks[0].target: found "y" of shape [9, 3]; a window task of cross_entropy with 3 '
        "classes needs [9]; store class numbers from 0 in place of one value for each class"
    )


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "a pointer of Git LFS in pl",
        ),
        (
            b"\x93NUMPY\x01\x00",
            "a single array (.npy); must be a valid .npz; save it",
        ),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"<html><body>404", "a page in HTML or XML"),
        (b"a,b\n1,2\n", "plain text"),
        (b"\x00\x01\x02", "damaged or cut off data"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, content: bytes, found: str) -> None:
    """A line says what the file is, in words of ours and not of the library that read it."""
    (tmp_path / "a.npz").write_bytes(content)
    (line,) = faults(of_arrays(), tmp_path)
    assert line.startswith(f"a.npz: found {found}")


def one_cause(**stored: Array) -> dict[str, Array]:
    return {"features": np.ones((12, 3, 2)), "y": np.arange(12) % 2} | stored


@pytest.mark.parametrize(
    ("stored", "loss", "line"),
    [
        (
            one_cause(features=np.full((12, 3, 2), [1, np.nan])),
            "mse",
            "a.npz, row 0, column features[0, 1]: found nan, in 36 values; must be a finite",
        ),
        (
            one_cause(y=np.where(np.arange(12) % 2, 1, -1)),
            "binary_cross_entropy",
            "a.npz, row 0, column y: found -1, in 6 values; binary_cross_entropy needs 0 or 1",
        ),
        (
            one_cause(y=np.arange(12) % 2 + 1),
            "cross_entropy",
            '$.tasks[0].target: found "y" with classes 1 … 2; classes count from 0; subtract 1',
        ),
        (
            one_cause(y=np.where(np.arange(12) % 2, 1, -1)),
            "cross_entropy",
            "a.npz, row 0, column y: found -1, in 6 values; cross_entropy needs classes",
        ),
        (
            one_cause(y=np.where(np.arange(12) % 2, 1, -1)),
            "ordinal",
            "a.npz, row 0, column y: found -1, in 6 values; ordinal needs classes",
        ),
        (
            one_cause(y=np.where(np.arange(12) % 2, 2.5, -3)),
            "poisson_nll",
            "a.npz, row 0, column y: found -3.0, in 6 values; poisson_nll needs counts from 0 to "
            '1e+12; correct the data, or set $.tasks[0].loss to {"kind": "mse"}',
        ),
    ],
)
def test_one_fault_for_one_value(
    tmp_path: Path, stored: dict[str, Array], loss: str, line: str
) -> None:
    """A value that is wrong in many places gives one line: its first place, and how often."""
    save(tmp_path / "a.npz", stored)
    outputs = 2 if loss in ("cross_entropy", "ordinal") else 1
    (found,) = faults(of_arrays(tasks=[task("y", "window", loss, outputs=outputs)]), tmp_path)
    assert found.startswith(line)


def test_archives_without_arrays(tmp_path: Path) -> None:
    """A file of torch, which is a zip archive too, is no .npz."""
    torch.save({"features": torch.ones(3)}, tmp_path / "a.npz")
    (line,) = faults(of_arrays(), tmp_path)
    assert line.startswith("a.npz: found a zip archive without arrays; must hold arrays of numpy")


def test_features_in_many_columns(tmp_path: Path) -> None:
    """A Parquet file with a column for each feature gives a line that says how to store them."""
    pq.write_table(pa.table({"f1": [1.0], "f2": [2.0], "y": [3.0]}), tmp_path / "a.parquet")
    (line,) = faults(of_arrays("a.parquet", [task("y")]), tmp_path)
    assert "the data has f1, f2, y; store them as one column of lists, or name the" in line


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors", "a.parquet"])
def test_special_files(tmp_path: Path, name: str) -> None:
    """A FIFO is refused without waiting for a writer, and so is a directory."""
    os.mkfifo(tmp_path / name)
    assert faults(of_arrays(name), tmp_path)[0].startswith(f"{name}: found a FIFO or pipe; must")
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert faults(of_arrays(name), tmp_path)[0].startswith(f"{name}: found a directory; must be")


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors", "a.parquet"])
@pytest.mark.parametrize("content", [b"", b"not a file of that kind", b"PK\x03\x04 cut off", None])
def test_bad_file(tmp_path: Path, name: str, content: bytes | None) -> None:
    """A missing or empty file, or one of another kind, gives one line with its name."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    (line,) = faults(of_arrays(name), tmp_path)
    found = "no file at |an empty file|plain text|a zip archive|damaged or cut off data"
    assert re.match(f"{re.escape(name)}: found ({found})", line)
    assert ("no file" in line) == (content is None)
    assert ("an empty file" in line) == (content == b"")


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors", "a.parquet"])
def test_damaged_file(tmp_path: Path, name: str) -> None:
    """A file that is cut off anywhere is refused as such, and not read in part."""
    save(tmp_path / name, arrays())
    whole = (tmp_path / name).read_bytes()
    for end in range(1, len(whole), len(whole) // 20):
        (tmp_path / name).write_bytes(whole[:end])
        (line,) = faults(of_arrays(name), tmp_path)
        assert line.startswith(f"{name}: found damaged or cut off data; must be a valid ")


def test_pickle_is_never_opened(tmp_path: Path) -> None:
    """A pickle named .npz is refused, and what it would run does not run."""

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    import pickle

    (tmp_path / "a.npz").write_bytes(pickle.dumps(Trap()))
    assert "a.npz: found a Python pickle" in faults(of_arrays(), tmp_path)[0]
    np.savez(tmp_path / "a.npz", allow_pickle=True, **arrays() | {"level": np.array([Trap()])})
    assert "a.npz, column level: found Python objects" in faults(of_arrays(), tmp_path)[0]
    assert not (tmp_path / "sprung").exists()


def test_other_endings(tmp_path: Path) -> None:
    """A file of another kind is refused by its name."""
    (line,) = faults(of_arrays("a.txt"), tmp_path)
    assert line.startswith('$.data.path: found "a.txt"; must end in .npz or .safetensors or')


# --- S3 ---------------------------------------------------------------------------------------


@pytest.fixture
def object_url(tmp_path: Path, s3_url: str) -> str:
    """The URL of an object that holds arrays."""
    save(tmp_path / "a.npz", arrays())
    open_store(s3_url).put("a.npz", (tmp_path / "a.npz").read_bytes())
    return f"{s3_url}/a.npz"


def test_s3(tmp_path: Path, object_url: str) -> None:
    """An object in S3 is read like a file."""
    same(load(of_arrays(object_url), Path("/nowhere")), load(of_arrays(), tmp_path))


def test_s3_refuses(tmp_path: Path, proxy: Proxy, s3_url: str) -> None:
    """An object that is missing, empty or forbidden is a fault at its URL."""
    open_store(s3_url).put("empty.npz", b"")
    for name, found in (("b.npz", "no such object"), ("empty.npz", "an empty object")):
        (line,) = faults(of_arrays(f"{s3_url}/{name}"), tmp_path)
        assert line.startswith(f"{s3_url}/{name}: found {found}; ")
    proxy.rule = lambda _: "403"
    (line,) = faults(of_arrays(f"{s3_url}/a.npz"), tmp_path)
    assert line.startswith(f"{s3_url}/a.npz: found access denied (403 AccessDenied)")
    assert "the credentials in the environment" in line


def test_s3_by_a_wrong_url(tmp_path: Path) -> None:
    """A URL that names no object is a fault of the spec."""
    (line,) = faults(of_arrays("s3://BUCKET?/a.npz"), tmp_path)
    assert line.startswith("$.data.path: found s3://…; an object is s3://bucket/key")


def test_s3_out_of_reach(
    tmp_path: Path, proxy: Proxy, object_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that fails is no fault of the spec; it is asked several times before."""
    fails = itertools.count()
    proxy.rule = lambda _: "503" if next(fails) < 2 else None
    same(load(of_arrays(object_url), tmp_path), load(of_arrays(), tmp_path))
    monkeypatch.setattr("job.store.s3_client.ATTEMPTS", 2)  # the pauses between them grow
    proxy.rule = lambda _: "503"
    with pytest.raises(Unavailable, match="503 SlowDown"):
        load(of_arrays(object_url), tmp_path)


def test_s3_without_credentials(
    tmp_path: Path, object_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without credentials the fault says so and where they belong."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (line,) = faults(of_arrays(object_url), tmp_path)
    assert line.startswith(f"{object_url}: found no credentials; set AWS_ACCESS_KEY_ID")
    assert "the credentials in the environment" in line


def test_a_warm_up_as_long_as_the_run(tmp_path: Path) -> None:
    """It would never reach its learning rate."""
    np.savez(tmp_path / "a.npz", features=np.zeros((20, 3, 2)), level=np.arange(20.0))
    job = of_arrays(tasks=[task("level")])
    steps = job.train.epochs * -(-16 // job.train.batch_size)
    for warmup, fits in ((steps - 1, True), (steps, False)):
        train = job.train.model_copy(update={"warmup": warmup})
        changed = job.model_copy(update={"train": train})
        if fits:
            load(changed, tmp_path)
            continue
        assert faults(changed, tmp_path) == [
            f"$.train.warmup: found {steps}; the run has {steps} steps, and would never reach its "
            "learning rate; warm up for fewer steps"
        ]
