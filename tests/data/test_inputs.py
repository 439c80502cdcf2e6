"""Named inputs of any shape: what the loader makes of them, what it counts, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from job.data.dataset import Dataset, load
from job.errors import InputError
from job.spec.read import parse_spec

Y = {"name": "y", "level": "sample", "loss": {"kind": "mse"}}
N = 20
draw = np.random.default_rng(0)


def loaded(
    folder: Path,
    inputs: dict[str, Any],
    arrays: dict[str, Any],
    tasks: list[dict[str, Any]] | None = None,
    **more: Any,
) -> Dataset:
    """The data of a spec with these inputs; validation is the last fifth."""
    np.savez(folder / "a.npz", **({"y": np.arange(float(N))} | arrays))
    data = {"kind": "arrays", "path": "a.npz", "split": "tail", "inputs": inputs}
    whole = {"name": "a", "data": data, "tasks": tasks or [Y], "train": {"epochs": 1}}
    whole["train"] = {"epochs": 1, "batch_size": 4}
    spec = parse_spec(json.dumps(whole | more))
    return load(spec, folder)


def fault(folder: Path, *arguments: Any, **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        loaded(folder, *arguments, **more)
    (line,) = [str(each) for each in caught.value.faults]
    return line


# --- shapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("about", "shape", "made"),
    [
        ({}, (N,), (1, 1)),
        ({}, (N, 3), (1, 3)),
        ({}, (N, 5, 3), (5, 3)),
        ({}, (N, 4, 5, 3), (4, 5, 3)),
        ({"kind": "image"}, (N, 4, 5), (4, 5, 1)),
        ({"kind": "image", "channels": "last"}, (N, 4, 5, 3), (4, 5, 3)),
        ({"kind": "image", "channels": "first"}, (N, 3, 4, 5), (4, 5, 3)),
    ],
)
def test_numbers_of_any_shape(
    tmp_path: Path, about: dict[str, Any], shape: tuple[int, ...], made: tuple[int, ...]
) -> None:
    """Features are last, positions before them; every value is where it was."""
    x = draw.normal(size=shape)
    model = {"kind": "transformer"}
    data = loaded(tmp_path, {"x": about}, {"x": x}, model=model)
    assert data.train.inputs["x"].shape == (16, *made)
    assert data.train.inputs["x"].dtype == torch.float32
    placed = np.moveaxis(x, 1, -1) if about.get("channels") == "first" else x
    assert np.array_equal(data.train.inputs["x"].numpy().ravel(), placed[:16].astype("f4").ravel())


def test_bytes_stay_bytes(tmp_path: Path) -> None:
    """An image of uint8 takes a byte a pixel in memory, and 255 means 1."""
    x = draw.integers(0, 256, (N, 4, 5)).astype(np.uint8)
    data = loaded(tmp_path, {"x": {"kind": "image"}}, {"x": x}, model={"kind": "conv2d"})
    assert data.train.inputs["x"].dtype == torch.uint8
    assert data.inputs["x"].whole == 255


def test_a_spec_without_inputs_keeps_its_content() -> None:
    """The new key is in the content of specs that use it alone."""
    data = {"kind": "arrays", "path": "a.npz"}
    spec = {"name": "a", "data": data, "tasks": [Y], "train": {"epochs": 1, "batch_size": 4}}
    assert "inputs" not in parse_spec(json.dumps(spec)).canonical()


@pytest.mark.parametrize("shape", [(N, 3, 4), (N, 12), (N, 3, 4, 1)])
def test_a_target_for_each_pixel(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Its positions are one axis, in the order of the image's rows."""
    task = {"name": "seen", "level": "position", "loss": {"kind": "mse"}}
    seen = draw.normal(size=(N, 3, 4))
    arrays = {"x": draw.normal(size=(N, 3, 4)), "seen": seen.reshape(shape)}
    data = loaded(tmp_path, {"x": {"kind": "image"}}, arrays, [task], model={"kind": "conv2d"})
    assert data.train.targets["seen"].shape == (16, 12, 1)
    assert np.allclose(data.train.targets["seen"].numpy().ravel(), seen[:16].ravel())


# --- codes --------------------------------------------------------------------------------------


def test_codes_of_texts_and_numbers(tmp_path: Path) -> None:
    """Codes count what the training split has; all else has the last code, and is counted."""
    city = np.array(["b", "c", "a", ""] * 4 + ["a", "z", "", "c"])
    zone = np.array([70, -3] * 8 + [70, 5, -3, 999])
    inputs = {"city": {"kind": "codes"}, "zone": {"kind": "codes"}}
    data = loaded(tmp_path, inputs, {"city": city, "zone": zone})
    assert data.inputs["city"].codes == (4,)
    assert data.inputs["city"].levels == {"city": ["a", "b", "c"]}
    assert data.inputs["zone"].levels == {"zone": ["-3", "70"]}
    assert data.train.inputs["city"].flatten().tolist() == [1, 2, 0, 3] * 4
    assert data.validation.inputs["city"].flatten().tolist() == [0, 3, 3, 2]
    assert data.validation.inputs["zone"].flatten().tolist() == [1, 2, 0, 2]
    assert data.skipped == {
        "a.npz: values of city that the training split lacks, one code for all": 1,
        "a.npz: empty values of city, one code for all": 5,
        "a.npz: values of zone that the training split lacks, one code for all": 2,
    }


def test_tokens_share_their_codes(tmp_path: Path) -> None:
    """Tokens [N, T] have the same codes at every position; codes [N, F] do not."""
    ids = np.stack([np.arange(N) % 3, 5 + np.arange(N) % 2], 1)
    tokens = loaded(tmp_path, {"x": {"kind": "tokens"}}, {"x": ids})
    assert tokens.train.inputs["x"].shape == (16, 2, 1)
    assert tokens.inputs["x"].codes == (6,)
    codes = loaded(tmp_path, {"x": {"kind": "codes"}}, {"x": ids})
    assert codes.train.inputs["x"].shape == (16, 1, 2)
    assert codes.inputs["x"].codes == (4, 3)
    assert codes.train.inputs["x"][:3, 0].tolist() == [[0, 0], [1, 1], [2, 0]]


def test_inputs_of_a_table(tmp_path: Path) -> None:
    """Columns may be codes or numbers; texts among numbers become features, as ever."""
    rows = [f"{'xyz'[i % 3]},{i % 4},{'uv'[i % 2]},{i / 10},{i}" for i in range(N)]
    (tmp_path / "a.csv").write_text("\n".join(["city,zone,side,age,y", *rows]) + "\n")
    inputs = {
        "place": {"source": ["city", "zone"], "kind": "codes"},
        "person": {"source": ["side", "age"]},
    }
    data = {"kind": "arrays", "path": "a.csv", "split": "tail", "inputs": inputs}
    spec = {"name": "a", "data": data, "tasks": [Y], "train": {"epochs": 1, "batch_size": 4}}
    made = load(parse_spec(json.dumps(spec)), tmp_path)
    assert made.inputs["place"].names == ("city", "zone")
    assert made.inputs["place"].codes == (4, 5)
    assert made.inputs["person"].names == ("side=u", "side=v", "age")
    assert made.train.inputs["place"][5].tolist() == [[2, 1]]
    assert made.train.inputs["person"][5, 0].tolist() == pytest.approx([0, 1, 0.5])
    assert made.levels == {
        "city": ["x", "y", "z"],
        "zone": ["0", "1", "2", "3"],
        "side": ["u", "v"],
    }


# --- padding ------------------------------------------------------------------------------------


LENGTHS = draw.integers(1, 7, N)
SEQUENCES: dict[str, Any] = {
    "x": draw.normal(size=(N, 6, 2)),
    "ids": draw.integers(0, 5, (N, 6)),
    "words": np.array(["a", "b"])[draw.integers(0, 2, (N, 6))],
    "level": draw.normal(size=(N, 6)),
    "kind": np.array(["p", "q"])[draw.integers(0, 2, (N, 6))],
    "long": LENGTHS,
    "real": np.arange(6) < LENGTHS[:, None],
}
STEPS: list[dict[str, Any]] = [
    {"name": "level", "level": "step", "loss": {"kind": "mse"}},
    {"name": "kind", "level": "step", "outputs": 2, "loss": {"kind": "cross_entropy"}},
]
BY_LENGTH = {
    "x": {"lengths": "long"},
    "ids": {"kind": "tokens"},
    "words": {"kind": "tokens"},
}


def test_nothing_at_padding_is_read(tmp_path: Path) -> None:
    """Whatever stands at padding, even what would be refused elsewhere, the data is the same; and
    no label is there."""
    clean = loaded(tmp_path, BY_LENGTH, SEQUENCES, STEPS)
    padding = ~SEQUENCES["real"]
    assert padding.any()
    dirty = {k: v.copy() for k, v in SEQUENCES.items()}
    dirty["x"][padding], dirty["level"][padding] = np.nan, np.inf
    dirty["ids"][padding], dirty["words"][padding], dirty["kind"][padding] = 77, "w", "?"
    other = loaded(tmp_path, BY_LENGTH, dirty, STEPS)
    for one, two in ((clean.train, other.train), (clean.validation, other.validation)):
        for mine, theirs in ((one.inputs, two.inputs), (one.targets, two.targets)):
            assert mine.keys() == theirs.keys()
            for name, value in mine.items():
                assert torch.equal(value.nan_to_num(99), theirs[name].nan_to_num(99)), name
    assert other.inputs == clean.inputs
    assert other.skipped == clean.skipped == {}
    missing = torch.from_numpy(padding[:16])
    assert torch.equal(clean.train.targets["level"].squeeze(-1).isnan(), missing)
    assert torch.equal(clean.train.targets["kind"] == -1, missing)


def test_a_mask_says_what_lengths_say(tmp_path: Path) -> None:
    """Both give the network the same mask; statistics are those of real values."""
    one = loaded(tmp_path, {"x": {"lengths": "long"}}, SEQUENCES)
    two = loaded(tmp_path, {"x": {"mask": "real"}}, SEQUENCES)
    assert torch.equal(one.train.inputs["mask"], two.train.inputs["mask"])
    kept = SEQUENCES["x"][:16][SEQUENCES["real"][:16]]
    assert one.stats["x"].mean == pytest.approx(kept.mean(0), rel=1e-5)
    assert one.stats["x"].deviation == pytest.approx(kept.std(0), rel=1e-5)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "arrays", "more", "line"),
    [
        (
            {"x": {}, "p": {"kind": "image"}},
            {"x": np.ones((N, 5, 2)), "p": np.ones((N, 4, 4))},
            {},
            "$.data.inputs.x: found positions [5], and [4, 4] of p; inputs meet at their positions",
        ),
        ({"x": {}}, {"z": np.ones(N)}, {}, '$.data.inputs.x.source: found "x"; the data has y, z'),
        (
            {"x": {"kind": "image"}},
            {"x": np.ones((N, 3, 4, 4))},
            {},
            "a.npz, column x: found shape [20, 3, 4, 4]; an image must be [N, H, W]",
        ),
        (
            {"x": {}, "z": {}},
            {"x": np.ones((N, 2)), "z": np.ones((N - 1, 2))},
            {},
            "$.data.inputs.z: found 19 rows; x has 20",
        ),
        (
            {"x": {"kind": "codes"}},
            {"x": np.full(N, 1.5)},
            {},
            "a.npz, row 0, column x: found 1.5, in 20 values; codes are whole numbers",
        ),
        (
            {"x": {"lengths": "n"}},
            {"x": np.ones((N, 5, 2)), "n": np.arange(N) % 5},
            {},
            "a.npz, column n, row 0: found 0, and 3 more; a length is a whole number from 1 to 5",
        ),
        (
            {"x": {"mask": "n"}},
            {"x": np.ones((N, 5, 2)), "n": np.zeros((N, 5))},
            {},
            "a.npz, column n, row 0: found no such mask, and 19 more; a mask is 1 at real",
        ),
        (
            {"x": {"mask": "n"}},
            {"x": np.ones((N, 5, 2)), "n": np.ones((N, 4))},
            {},
            "a.npz, column n: found shape [20, 4]; the positions [5] of 20 samples need shape",
        ),
        (
            {"x": {"kind": "image", "lengths": "n"}},
            {"x": np.ones((N, 5, 2)), "n": np.ones(N)},
            {},
            "a.npz, column n: found shape [20]; lengths are of sequences, and x has positions",
        ),
        (
            {"x": {}},
            {"x": np.array([np.nan] * N)},
            {},
            "a.npz, row 0, column x: found nan, in 20 values; must be a finite number",
        ),
        (
            {"x": {}},
            {"x": np.ones((N, 5, 2))},
            {"model": {"kind": "conv2d"}},
            '$.model.kind: found "conv2d"; conv2d reads images [N, H, W, C]; the samples have',
        ),
        (
            {"x": {}},
            {"x": np.ones((N, 5, 2)), "y": np.ones((N, 5))},
            {"model": {"kind": "mlp"}, "tasks": [Y | {"level": "step"}]},
            '$.tasks[0].level: found "step"; an mlp gives one output for a sample, not for each of',
        ),
        (
            {"x": {"kind": "image", "mask": "n"}},
            {"x": np.ones((N, 4, 4)), "n": np.ones((N, 4, 4))},
            {"model": {"kind": "conv2d"}},
            '$.model.kind: found "conv2d"; conv2d has no part of an image left out',
        ),
        ({"mask": {}}, {"mask": np.ones(N)}, {}, "$.data.inputs.mask: found {}; the network gets"),
        (
            {"a": {"lengths": "n"}, "b": {"mask": "m"}},
            {},
            {},
            '$.data.inputs.b.mask: found "m"; the inputs share their positions, and a says already',
        ),
        ({"x": {"channels": "first"}}, {}, {}, '$.data.inputs.x.channels: found "first"; numbers'),
        (
            {"x": {"kind": "codes", "scale": "robust"}},
            {},
            {},
            '$.data.inputs.x.scale: found "robust"; codes are embedded',
        ),
        ({}, {}, {}, "$.data.inputs: found {}; must hold one input or more"),
    ],
)
def test_faults(
    tmp_path: Path,
    inputs: dict[str, Any],
    arrays: dict[str, NDArray[Any]],
    more: dict[str, Any],
    line: str,
) -> None:
    """Each fault is one line: where, what was found, the rule, the remedy."""
    found = fault(tmp_path, inputs, arrays, **more)
    assert found.startswith(line), found


def test_another_file_has_the_same_inputs(tmp_path: Path) -> None:
    """Codes are those of the first file; another shape, or numbers for texts, is refused."""
    base = {"kind": "arrays", "path": "a.npz", "validation": {"path": "b.npz"}}
    inputs = {"c": {"kind": "codes"}, "x": {}}
    spec = {"name": "a", "data": base | {"inputs": inputs}, "tasks": [Y]}
    job = parse_spec(json.dumps(spec | {"train": {"epochs": 1, "batch_size": 4}}))
    first: dict[str, Any] = {
        "c": np.array(["u", "v"] * 10),
        "x": np.ones((N, 3)),
        "y": np.arange(float(N)),
    }
    np.savez(tmp_path / "a.npz", **first)
    np.savez(tmp_path / "b.npz", **(first | {"c": np.array(["v", "w"] * 10)}))
    made = load(job, tmp_path)
    assert made.validation.inputs["c"].flatten().tolist() == [1, 2] * 10
    np.savez(tmp_path / "b.npz", **(first | {"c": np.ones(N)}))
    with pytest.raises(
        InputError, match=r"b\.npz, column c: found numbers; the training split has t"
    ):
        load(job, tmp_path)
    np.savez(tmp_path / "b.npz", **(first | {"x": np.ones((N, 4))}))
    with pytest.raises(InputError, match=r"b\.npz, x: found 1 steps of 4 features"):
        load(job, tmp_path)
