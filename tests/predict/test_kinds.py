"""Of every kind of task a file has what numpy computes from the checkpoint's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from job.predict import load
from job.predict.write import write_file
from tests.support.command import here
from tests.support.finished import finish

Line = dict[str, Any]
Array = NDArray[Any]
N, P, F, H = 30, 4, 3, 5
"""Samples, positions, features, hidden units."""
LOSSES: dict[str, tuple[Line, int]] = {
    "number": ({"kind": "huber"}, 1),
    "pair": ({"kind": "mse"}, 2),
    "classes": ({"kind": "cross_entropy"}, 3),
    "binary": ({"kind": "binary_cross_entropy"}, 1),
    "labels": ({"kind": "binary_cross_entropy"}, 3),
    "ordinal": ({"kind": "ordinal"}, 4),
    "quantile": ({"kind": "quantile", "levels": [0.1, 0.5, 0.75]}, 2),
    "counts": ({"kind": "poisson_nll"}, 1),
    "normal": ({"kind": "gaussian_nll", "floor": 0.05}, 2),
    "ranking": ({"kind": "ranking"}, 3),
}
"""Loss and outputs of a task, by the name of its kind."""
SHIFTED = ("number", "pair", "quantile", "normal")
"""Kinds whose targets are standardized."""
TEXTS = {"window_classes": ["green", "red", "tea"], "step_binary": ["no", "yes"]}
"""Tasks whose targets are texts."""


def targets(draw: np.random.Generator) -> dict[str, Array]:
    """A target of every kind and level, and one whose name is that of the ids."""
    made: dict[str, Array] = {"id": draw.normal(3, 2, size=(N, 1))}
    for level, lead in (("window", (N,)), ("step", (N, P))):
        for kind, (loss, outputs) in LOSSES.items():
            shape = (*lead, outputs)
            match loss["kind"]:
                case "cross_entropy" | "ordinal":
                    values: Array = draw.integers(0, outputs, lead)
                case "binary_cross_entropy":
                    values = draw.integers(0, 2, shape)
                case "poisson_nll":
                    values = draw.poisson(2, shape)
                case _:
                    values = draw.normal(40, 9, shape)
            name = f"{level}_{kind}"
            made[name] = np.array(TEXTS[name])[values] if name in TEXTS else values
    return made


def spec(names: list[str]) -> Line:
    tasks = []
    for name in names:
        level, _, kind = name.rpartition("_")
        loss, outputs = LOSSES.get(kind, LOSSES["number"])
        task: Line = {"name": name, "level": level or "window", "outputs": outputs, "loss": loss}
        if kind in SHIFTED:
            task["transform"] = {"kind": "standardize"}
        if name == "step_pair":
            task["activation"] = "tanh"
        tasks.append(task)
    return {
        "name": "kinds",
        "data": {"kind": "arrays", "path": "kinds.npz", "scale": "standardize"},
        "model": {"hidden": H, "projection": 4},
        "tasks": tasks,
        "train": {"epochs": 2, "batch_size": 8, "threads": 1},
        "optimizer": {"lr": 0.05},
        "checkpoint": {"keep": 1},
    }


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with tasks of all kinds."""
    folder, draw = tmp_path_factory.mktemp("kinds"), np.random.default_rng(0)
    made = targets(draw)
    arrays: dict[str, Any] = {"features": draw.normal(2, 3, size=(N, P, F)), **made}
    np.savez(folder / "kinds.npz", **arrays)
    (folder / "kinds.json").write_text(json.dumps(spec(list(made))))
    finish(folder / "kinds.json")
    return folder


# --- by numpy -----------------------------------------------------------------------------------


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def lstm(x: Array, weights: dict[str, Array], which: str) -> Array:
    """Hidden states [N, P, H] of one direction."""
    of = {k: weights[f"model.trunk.encoder.lstm.{k}_l0{which}"] for k in
          ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}  # fmt: skip
    h, c, states = np.zeros((len(x), H)), np.zeros((len(x), H)), []
    for t in range(x.shape[1]):
        gates = x[:, t] @ of["weight_ih"].T + of["bias_ih"] + h @ of["weight_hh"].T + of["bias_hh"]
        i, f, g, o = np.split(gates, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.stack(states, 1)


def outputs_of(features: Array, weights: dict[str, Array], name: str) -> Array:
    """The outputs [N, …, W] of a task's head."""
    at = "model.trunk.entry.by_input.input_features."
    x = (features - weights[f"{at}shift"]) / weights[f"{at}scale"]
    back = lstm(x[:, ::-1], weights, "_reverse")[:, ::-1]
    z = np.concatenate([lstm(x, weights, ""), back], -1)
    at = f"model.by_task.task_{name}."
    if not name.startswith("step"):
        z = z.mean(1) @ weights[f"{at}projection.0.weight"].T + weights[f"{at}projection.0.bias"]
        z = np.maximum(z, 0)
    return np.asarray(z @ weights[f"{at}output.weight"].T + weights[f"{at}output.bias"])


def by_hand(out: Array, name: str, shift: Array, scale: Array) -> tuple[list[str], list[Array]]:
    """Names and values of a task's columns, the predicted classes first."""
    kind = name.rpartition("_")[2]
    loss, outputs = LOSSES.get(kind, LOSSES["number"])
    each = [name] if outputs == 1 else [f"{name}[{i}]" for i in range(outputs)]
    classes = TEXTS.get(name, list(range(outputs)))
    match loss["kind"]:
        case "cross_entropy":
            p = np.exp(out) / np.exp(out).sum(-1, keepdims=True)
            chosen, titles = p.argmax(-1), [f"{name}={c}" for c in classes]
        case "ordinal":
            above = np.cumprod(sigmoid(out), -1)
            edges = np.concatenate([np.ones_like(above[..., :1]), above, 0 * above[..., :1]], -1)
            p = edges[..., :-1] - edges[..., 1:]
            chosen, titles = (above > 0.5).sum(-1), [f"{name}={c}" for c in classes]
        case "binary_cross_entropy":
            one = TEXTS.get(name, ["0", "1"])[1]
            p = sigmoid(out)
            chosen, titles = (p > 0.5).astype(int), [f"{c}={one}" for c in each]
        case "quantile":
            levels, p = loss["levels"], out * scale.repeat(3) + shift.repeat(3)
            return [f"{c}@{q}" for c in each for q in levels], list(np.moveaxis(p, -1, 0))
        case "gaussian_nll":
            mean, raw = out[..., ::2] * scale + shift, out[..., 1::2]
            deviation = np.sqrt(loss["floor"] ** 2 + np.exp(raw)) * scale
            p = np.stack([mean, deviation], -1).reshape(out.shape)
            return [c + e for c in each for e in ("", ".deviation")], list(np.moveaxis(p, -1, 0))
        case "poisson_nll":
            return each, list(np.moveaxis(np.exp(out), -1, 0))
        case _:
            out = np.tanh(out) if name == "step_pair" else out
            return each, list(np.moveaxis(out * scale + shift, -1, 0))
    of_each = loss["kind"] == "binary_cross_entropy"
    first = list(np.moveaxis(chosen, -1, 0)) if of_each else [chosen]
    if name in TEXTS:
        first = [np.array(TEXTS[name])[c] for c in first]
    return [*(each if of_each else [name]), *titles], [*first, *np.moveaxis(p, -1, 0)]


def test_every_kind(kinds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows, ids, class names, probabilities and numbers, in a table, in CSV and in .npz."""
    (file,) = kinds.glob("store/kinds/run/checkpoints/*/model.safetensors")
    weights = safetensors.numpy.load_file(file)
    features = np.load(kinds / "kinds.npz")["features"]
    run, data = kinds / "store/kinds/run", kinds / "kinds.npz"
    for ending in ("parquet", "csv", "npz"):
        code, _, err = here(capsys, "predict", run, "--data", data, "-o", kinds / f"x.{ending}")
        assert code == 0, err
    table, text = pq.read_table(kinds / "x.parquet"), pa.csv.read_csv(kinds / "x.csv")
    arrays = np.load(kinds / "x.npz")
    assert table["row_id"].to_pylist() == text["row_id"].to_pylist() == list(range(N))
    assert arrays["row_id"].tolist() == list(range(N))
    wanted = ["row_id"]
    for k, task in enumerate(spec(list(targets(np.random.default_rng(0))))["tasks"]):
        name, of = task["name"], [weights[f"losses.{k}.{each}"] for each in ("shift", "scale")]
        names, values = by_hand(outputs_of(features, weights, name), name, *of)
        wanted += names
        for title, value in zip(names, values, strict=True):
            column = np.array(table[title].to_pylist())
            assert column.shape == ((N, P) if task["level"] == "step" else (N,))
            titles = [f"{title}[{p}]" for p in range(P)] if column.ndim == 2 else [title]
            in_text = np.stack([text[t].to_numpy(zero_copy_only=False) for t in titles], -1)
            in_text = in_text.reshape(column.shape)
            if value.dtype.kind == "f":
                np.testing.assert_allclose(column, value, rtol=2e-4, atol=2e-5, err_msg=title)
                np.testing.assert_allclose(in_text, column, rtol=1e-5)
                place = arrays[f"{name}.names"].tolist().index(title)
                np.testing.assert_array_equal(arrays[name][..., place], column)
            else:
                assert column.tolist() == value.tolist(), title
                assert in_text.tolist() == value.tolist(), title
    assert table.column_names == wanted


def test_class_arrays(kinds: Path) -> None:
    """In .npz the predicted classes are one array for each task that has some."""
    batches = load(kinds / "store/kinds/run").predict_file(str(kinds / "kinds.npz"))
    write_file(batches, kinds / "classes.npz")
    arrays = np.load(kinds / "classes.npz")
    assert set(arrays["window_classes.class"]) <= set(TEXTS["window_classes"])
    shapes = {n: arrays[n].shape for n in arrays.files if n.endswith(".class")}
    assert shapes == {
        f"{level}_{kind}.class": lead + tail
        for level, lead in (("window", (N,)), ("step", (N, P)))
        for kind, tail in {"classes": (), "ordinal": (), "binary": (1,), "labels": (3,)}.items()
    }
