"""A run predicts for new samples what it predicted for its own, whatever form these have."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk

from job.data.dataset import load as load_data
from job.errors import InputError
from job.predict import Predicted, Predictor, load
from job.predict import write as writing
from job.record.history import read_history
from job.record.run_index import RunIndexStore
from job.store import open_store
from tests.run.test_old_store import OLD
from tests.support.command import ROOT, here
from tests.support.finished import finish
from tests.support.own_networks import CONV, place
from tests.support.people import N, people
from tests.support.shards import write_shards
from tests.support.tiny_job import SMALL, write

Line = dict[str, Any]
Array = NDArray[Any]

KINDS: dict[str, Line] = {
    "lstm": {},
    "mlp": {
        "model": {"kind": "mlp", "hidden": [6], "projection": 4},
        "tasks": SMALL["tasks"][:2],
    },
    "transformer": {"model": {"kind": "transformer", "width": 8, "heads": 2, "layers": 1}},
    "experts": {"model": {"hidden": 4, "projection": 4, "experts": {"kind": "mmoe"}}},
    "average": {"train.ema": {"decay": 0.8}},
    "best": {"checkpoint": {"best_of": "level"}},
}
"""Edits of the small job."""


def events(place: str, kind: str) -> list[Line]:
    root, name, run_id = place.rsplit("/", 2)
    return [e for e in read_history(open_store(root), f"{name}/{run_id}") if e["event"] == kind]


def assert_equal(ours: dict[str, Predicted], theirs: dict[str, Predicted]) -> None:
    assert ours.keys() == theirs.keys()
    for task, mine in ours.items():
        np.testing.assert_allclose(mine.values, theirs[task].values, rtol=1e-5, atol=1e-6)
        assert mine.names == theirs[task].names
        if mine.classes is not None:
            np.testing.assert_array_equal(mine.classes, theirs[task].classes)


# --- the run's own numbers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        *("lstm", "mlp", "average", "own"),
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("transformer", "experts", "best")
        ),
    ],
)
def test_the_validation_rows_get_the_run_s_predictions(tmp_path: Path, kind: str) -> None:
    """Metrics computed anew from them are those of the run's record, and its samples are there."""
    if kind == "own":
        spec = place(tmp_path, CONV, {"build": "make"})
    else:
        spec = write(tmp_path, KINDS[kind])
    place_ = finish(spec)
    predictor = load(place_, spec_folder=tmp_path, checkpoint="last")
    data = load_data(predictor.spec, tmp_path).validation
    found = predictor.predict(data.inputs["features"])
    recorded = events(place_, "epoch")[-1]["tasks"]
    kinds = found["kind"].classes
    assert kinds is not None
    accuracy = sk.accuracy_score(data.targets["kind"], kinds)
    assert recorded["kind"]["val_metrics"]["accuracy"] == pytest.approx(accuracy)
    loss = sk.log_loss(data.targets["kind"], found["kind"].values, labels=[0, 1])
    assert recorded["kind"]["val_loss"] == pytest.approx(loss, rel=1e-4)
    for task in found.keys() - {"kind"}:
        error = np.abs(found[task].values - data.targets[task].numpy()).mean()
        assert recorded[task]["val_metrics"]["mae"] == pytest.approx(error, rel=1e-4)
    for event in events(place_, "predictions"):
        if "sample" in event:
            ours = found[event["task"]].values.reshape(-1)
            gaps = np.abs(np.array(event["sample"]["predicted"])[:, None] - ours).min(1)
            assert gaps.max() < 1e-4


def test_the_average_is_used(tmp_path: Path) -> None:
    """Of a run with an average, the last parameters would predict something else."""
    finished = finish(write(tmp_path, {**KINDS["average"], "optimizer.lr": 0.05}))
    predictor = load(finished)
    root, name, run_id = finished.rsplit("/", 2)
    store = open_store(root)
    index = RunIndexStore(store, f"{name}/{run_id}", fenced=False).read()
    assert index is not None
    file = Path(finished, index.checkpoints[0].folder, "model.safetensors")
    kept = safetensors.numpy.load_file(file)
    bias = "by_task.task_level.output.bias"
    own = predictor.model.state_dict()[bias].numpy()
    np.testing.assert_array_equal(own, kept[f"ema.{bias}"])
    assert np.abs(own - kept[f"model.{bias}"]).max() > 0


# --- forms of samples ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predictor(small: Path) -> Predictor:
    return load(small / "store/small/run")


@pytest.fixture(scope="module")
def features(small: Path) -> Array:
    return np.asarray(np.load(small / "small.npz")["features"])


FORMS: dict[str, Callable[[Array], Any]] = {
    "float64": lambda x: x.astype(np.float64),
    "big endian": lambda x: x.astype(">f8"),
    "by columns": np.asfortranarray,
    "a tensor": torch.from_numpy,
    "a tensor with gradient": lambda x: torch.from_numpy(x).double().requires_grad_(),
    "lists": lambda x: x.tolist(),
    "by name": lambda x: {"features": x, "more": x[:, 0]},
    "an Arrow table": lambda x: pa.table({"features": pa.array(list(map(list, x.tolist())))}),
}


@pytest.mark.parametrize("form", FORMS)
def test_samples_in_memory(predictor: Predictor, features: Array, form: str) -> None:
    """Types, names and libraries change no prediction."""
    assert_equal(predictor.predict(FORMS[form](features)), predictor.predict(features))


@pytest.mark.parametrize("dtype", [np.float16, torch.float16, torch.bfloat16])
def test_half_precision(predictor: Predictor, features: Array, dtype: Any) -> None:
    """Small floats are read as what they are, not refused."""
    few = np.round(features * 4) / 4  # which all of these types can represent
    x = torch.from_numpy(few).to(dtype) if isinstance(dtype, torch.dtype) else few.astype(dtype)
    assert_equal(predictor.predict(x), predictor.predict(few))


def test_a_single_row(predictor: Predictor, features: Array) -> None:
    """It gets what it gets among others; the axes are there."""
    alone, among = predictor.predict(features[7:8]), predictor.predict(features)
    assert alone["kind"].values.shape == (1, 2)
    assert alone["pair"].values.shape == (1, 6, 2)
    for task, found in alone.items():
        np.testing.assert_allclose(found.values, among[task].values[7:8], rtol=1e-5, atol=1e-6)


def in_file(folder: Path, form: str, features: Array, ids: Array) -> Path:
    """The features and ids, without any target, in a file or folder of a form."""
    arrays: dict[str, Array] = {"features": features, "name": ids}
    path = folder / f"new.{form}"
    match form:
        case "npz":
            np.savez(path, features=features, name=ids)
        case "packed.npz":
            np.savez_compressed(path, features=features, name=ids)
        case "safetensors":
            safetensors.numpy.save_file(arrays, path)
        case "parquet":
            table = {"features": pa.array(features.tolist()), "name": pa.array(ids)}
            pq.write_table(pa.table(table), path, row_group_size=7)
        case _:
            cuts = [0, len(features) // 3, len(features)]
            write_shards(path, arrays, form.removeprefix("of-"), cuts)
    return path


@pytest.mark.parametrize(
    "form", ["npz", "packed.npz", "safetensors", "parquet", "of-npy", "of-safetensors", "of-arrow"]
)
def test_files_in_pieces(
    predictor: Predictor,
    features: Array,
    form: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Read a few rows at a time, a file gives a row for each of its rows, in their order."""
    for module in ("npz", "read"):
        monkeypatch.setattr(f"job.data.chunks.{module}.CHUNK", 5 * 6 * 3 * 4)
    ids = np.arange(100, 100 + len(features))
    path = in_file(tmp_path, form, features, ids)
    batches = list(predictor.predict_file(str(path), "name"))
    assert len(batches) > 3
    assert pa.concat_arrays([b.ids for b in batches]).to_pylist() == ids.tolist()
    values = np.concatenate([b.tasks["down"].values for b in batches])
    whole = predictor.predict(features)["down"].values
    np.testing.assert_allclose(values, whole, rtol=1e-5, atol=1e-6)
    assert pa.concat_arrays([b.ids for b in predictor.predict_file(str(path))]).to_pylist() == (
        list(range(len(features)))
    )


@settings(max_examples=20)
@given(st.integers(1, 60), st.integers(1, 5000), st.sampled_from(writing.ENDINGS))
def test_rows_in_are_rows_out(
    tmp_path_factory: pytest.TempPathFactory, predictor: Predictor, n: int, chunk: int, ending: str
) -> None:
    """Whatever the number of rows, the piece that is read and the form that is written."""
    folder = tmp_path_factory.mktemp("rows")
    features = np.random.default_rng(n).normal(size=(n, 6, 3))
    np.savez(folder / "new.npz", features=features)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("job.data.chunks.npz.CHUNK", chunk)
        batches = predictor.predict_file(str(folder / "new.npz"))
        out = folder / f"out{ending}"
        assert writing.write_file(batches, out) == n
    ids, level = read_back(out)
    assert ids == list(range(n))
    expected = predictor.predict(features)["level"].values[:, 0]
    np.testing.assert_allclose(level, expected, rtol=1e-4)


def read_back(path: Path) -> tuple[list[int], Array]:
    """Ids and predictions of `level` in a file that was written."""
    if path.suffix == ".npz":
        stored = np.load(path)
        assert list(stored["level.names"]) == ["level"]
        return stored["id"].tolist(), stored["level"][:, 0]
    table = pq.read_table(path) if path.suffix == ".parquet" else pa.csv.read_csv(path)
    return table["id"].to_pylist(), table["level"].to_numpy()


# --- tables -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_table(table: Path) -> Predictor:
    return load(table / "store/people/run")


def test_tables_in_any_order(of_table: Predictor, table: Path, tmp_path: Path) -> None:
    """Columns in another order, among others that the run does not know, in any kind of table."""
    rows = people()
    expected = of_table.predict(rows)
    assert expected["risk"].names == ("risk=high", "risk=low", "risk=mid")
    assert expected["income"].names == ("income@0.1", "income@0.5", "income@0.9")
    ill = expected["ill"].classes
    assert ill is not None
    assert set(ill.reshape(-1)) <= {"no", "yes"}
    turned = {"sensor_9": [0.0] * N, **{name: rows[name] for name in reversed(rows)}}
    without = {name: turned[name] for name in turned if name not in ("risk", "ill", "income")}
    for each in (turned, without, pa.table(turned), {k: pa.array(v) for k, v in without.items()}):
        assert_equal(of_table.predict(each), expected)
    pq.write_table(pa.table(without), tmp_path / "new.parquet")
    pa.csv.write_csv(pa.table(without), tmp_path / "new.csv")
    for path in (tmp_path / "new.parquet", tmp_path / "new.csv", table / "people.csv"):
        (batch,) = of_table.predict_file(str(path), "person")
        assert [str(each).zfill(4) for each in batch.ids.to_pylist()] == rows["person"]
        assert_equal(batch.tasks, expected)


def test_a_row_of_cells(of_table: Predictor) -> None:
    """One row may be a dict of its cells."""
    rows = people()
    alone = of_table.predict({name: column[5] for name, column in rows.items()})
    among = of_table.predict(rows)
    np.testing.assert_allclose(alone["risk"].values, among["risk"].values[5:6], rtol=1e-5)


def test_a_piece_of_numbers_alone(
    of_table: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a column holds is known from training: a piece with other cells is read alike."""
    monkeypatch.setattr("job.data.chunks.tables.BLOCK", 400)
    rows = people()
    rows["city"] = ["12"] * 60 + rows["city"][60:]
    pa.csv.write_csv(pa.table(rows), tmp_path / "new.csv")
    batches = list(of_table.predict_file(str(tmp_path / "new.csv"), "person"))
    assert len(batches) > 3
    found = np.concatenate([batch.tasks["risk"].values for batch in batches])
    np.testing.assert_allclose(found, of_table.predict(rows)["risk"].values, rtol=1e-5)


def test_what_is_unknown_is_counted(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A city that training lacks, and an empty city or age, are predicted for, and told of."""
    rows = people() | {"city": ["Kiel"] * 2 + [None] * 3 + ["Oslo"] * (N - 5)}
    pa.csv.write_csv(pa.table(rows), tmp_path / "new.csv")
    pq.write_table(pa.table(rows), tmp_path / "new.parquet")
    run = table / "store/people/run"
    _, _, of_parquet = here(capsys, "predict", run, "--data", tmp_path / "new.parquet")
    assert "empty texts of city, 0 in all levels: 3" in of_parquet
    code, out, err = here(capsys, "predict", run, "--data", tmp_path / "new.csv", "--id", "person")
    assert code == 0
    assert "texts of city that the training split lacks, 0 in all levels: 2" in err
    assert "empty texts of city, 0 in all levels: 3" in err
    assert "missing values of features, filled in: 11" in err
    assert "no best checkpoint, which checkpoint.best_of keeps: the last one is used" in err
    lines = out.splitlines()
    assert len(lines) == N + 1
    assert lines[0].startswith('"id","risk","risk=high","risk=low","risk=mid","ill","ill=yes",')
    assert lines[1].startswith('"0000",')


# --- hostile input ------------------------------------------------------------------------------


def hostile_table(folder: Path) -> dict[str, Path]:
    """Files that cannot be predicted for, by what the one line must say."""
    rows, made = people(), dict[str, Path]()

    def add(says: str, name: str, content: str | bytes | pa.Table) -> None:
        path = folder / name
        if isinstance(content, pa.Table):
            pa.csv.write_csv(content, path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        made[says] = path

    lacking = {name: rows[name] for name in rows if name not in ("age", "sensor_2")}
    add('no "age", "sensor_2"; the data has', "lacking.csv", pa.table(lacking))
    add("an empty file", "empty.csv", "")
    add("found no rows", "header.csv", "city,age,sensor_1,sensor_2\n")
    add("must be a valid Parquet file", "cut.parquet", b"PAR1" + bytes(40))
    add("row 3, column sensor_1", "text.csv", "city,age,sensor_1,sensor_2\nOslo,3,1,1\nRome,3,x,1")
    (folder / "shards").mkdir()
    made["found a folder; features names columns of a table, one file"] = folder / "shards"
    made["found a .npz file; features names columns of a table"] = folder / "new.npz"
    add("row 2: found 3 cells", "ragged.csv", "city,age,sensor_1,sensor_2\nOslo,3,1\n")
    return made


def test_hostile_tables(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, which names the file and what is wrong; no output is left behind."""
    run, out = table / "store/people/run", tmp_path / "out.parquet"
    for says, path in hostile_table(tmp_path).items():
        code, _, err = here(capsys, "predict", run, "--data", path, "-o", out)
        (line,) = [each for each in err.splitlines() if "checkpoint.best_of" not in each]
        assert code == 2, err
        assert says in line, err
        assert path.name in line
        assert not out.exists()


def hostile_arrays(folder: Path, features: Array) -> dict[str, Path]:
    made = dict[str, Path]()

    def add(says: str, name: str, **arrays: Any) -> Path:
        np.savez(folder / name, **arrays)
        made[says] = folder / name
        return folder / name

    gap = features.copy()
    gap[31, 2, 1] = np.nan
    add("row 31, column features[2, 1]: found nan", "nan.npz", features=gap)
    add('no "features"; the data has feature', "lacking.npz", feature=features)
    add("samples of shape [5, 3]; training had [6, 3]", "shape.npz", features=features[:, :5])
    add("samples of shape [1, 3]; training had [6, 3]", "row.npz", features=features[0])
    add("no rows", "none.npz", features=features[:0])
    add("Python objects", "objects.npz", features=np.array([{}, []], dtype=object))
    cut = add("damaged or cut off data", "cut.npz", features=features)
    cut.write_bytes(cut.read_bytes()[:-200])
    rotten = add("must be a valid .npz", "rotten.npz", features=features)
    content = bytearray(rotten.read_bytes())
    content[700] ^= 255
    rotten.write_bytes(content)
    return made


def test_hostile_arrays(
    small: Path, features: Array, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line each, with exit code 2."""
    run, out = small / "store/small/run", tmp_path / "out.npz"
    for says, path in hostile_arrays(tmp_path, features).items():
        code, _, err = here(capsys, "predict", run, "--data", path, "-o", out)
        (line,) = err.splitlines()
        assert code == 2, err
        assert says in line, err
        assert not out.exists()


def test_samples_of_the_wrong_type(predictor: Predictor, of_table: Predictor) -> None:
    """What is no array, or no table, is one line too."""
    for bad in ("text", {"features": [[1, 2], [3]]}, {"other": [1]}, None, {}):
        with pytest.raises(InputError) as caught:
            predictor.predict(bad)
        assert len(caught.value.faults) == 1
    for worse in (np.zeros((3, 4)), {"city": ["Oslo", "Rome"], "age": [1]}, {}):
        with pytest.raises(InputError) as caught:
            of_table.predict(worse)
        assert len(caught.value.faults) == 1


def test_a_damaged_checkpoint(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights without their SHA-256 predict nothing; the line names the file."""
    shutil.copytree(small / "store", tmp_path / "store")
    run = tmp_path / "store/small/run"
    for file in run.glob("checkpoints/*/model.safetensors"):
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.write_bytes(content)
    code, _, err = here(capsys, "predict", run, "--data", small / "small.npz")
    (line,) = err.splitlines()
    assert code == 1
    assert "model.safetensors is damaged" in line


def test_nothing_is_overwritten(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is there stays as it is."""
    (small / "mine.csv").write_text("mine")
    run, data = small / "store/small/run", small / "small.npz"
    code, _, err = here(capsys, "predict", run, "--data", data, "-o", small / "mine.csv")
    assert code == 2
    assert "nothing is overwritten" in err
    assert (small / "mine.csv").read_text() == "mine"


# --- which run, which checkpoint ----------------------------------------------------------------


def test_checkpoints(tmp_path: Path, features: Array) -> None:
    """Best, last and a number of steps; best is the last where the spec keeps none."""
    edits = {"checkpoint": {"best_of": "level", "keep": 2}, "optimizer.lr": 0.3}
    place_ = finish(write(tmp_path, edits))
    root, name, run_id = place_.rsplit("/", 2)
    index = RunIndexStore(open_store(root), f"{name}/{run_id}", fenced=False).read()
    assert index is not None
    assert index.best is not None
    steps = [kept.step for kept in index.checkpoints]
    for wanted, step in (("best", index.best.step), ("last", steps[0]), (str(steps[1]), steps[1])):
        predictor = load(place_, checkpoint=wanted)
        assert predictor.origin.kept.step == step
        assert predictor.notes == []
    with pytest.raises(InputError, match=f"it holds the steps .*{steps[0]}"):
        load(place_, checkpoint="7000")


def test_a_run_in_s3(s3_url: str, small: Path, features: Array, predictor: Predictor,
                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """By its whole address, by its id and a store, and by its id and EVENGRAD_STORE."""
    finish(write(small, KINDS["best"], "again.json"), s3_url)
    expected = predictor.predict(features)
    assert_equal(load(f"{s3_url}/small/run").predict(features), expected)
    assert_equal(load("run", store=s3_url).predict(features), expected)
    monkeypatch.setenv("EVENGRAD_STORE", s3_url)
    assert_equal(load("small/run").predict(features), expected)


def test_own_code(tmp_path: Path, features: Array) -> None:
    """The file is looked for in the spec's folder, and must be the one that the run had."""
    place_ = finish(place(tmp_path, CONV, {"build": "make"}))
    with pytest.raises(InputError, match=r"no network.py in .*; name that folder: --spec-folder"):
        load(place_)
    load(place_, spec_folder=tmp_path).predict(features)
    with (tmp_path / "blocks.py").open("a") as file:
        file.write("# more\n")
    with pytest.raises(InputError, match=r"\$\.model\.sha256\.blocks\.py"):
        load(place_, spec_folder=tmp_path)


def test_an_older_run(tmp_path: Path) -> None:
    """Its checkpoint does not say how inputs are read: that is taken from the run's data."""
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path, filter="data")
    run = tmp_path / "store/small/begun"
    predictor = load(run, spec_folder=tmp_path)
    assert "run small/begun is not finished" in predictor.notes
    stored = np.load(tmp_path / "small.npz")
    found = predictor.predict(stored["features"])
    loss = sk.log_loss(stored["kind"], found["kind"].values, labels=[0, 1])
    assert loss < sk.log_loss(stored["kind"], np.full((len(stored["kind"]), 2), 0.5))
    (tmp_path / "small.npz").unlink()
    with pytest.raises(InputError, match=r"small\.npz: found no file"):
        load(run, spec_folder=tmp_path)


# --- bars ---------------------------------------------------------------------------------------


def test_the_newest_window(tmp_path: Path) -> None:
    """Each window of a series gets a row; one of the run's validation gets what the run predicts.

    The newest needs no bar but its own and its history.
    """
    spec = json.loads((ROOT / "docker/smoke.json").read_text())
    spec["data"] |= {"path": str(ROOT / "docker/nasdaq.csv.gz"), "windows": 60}
    spec |= {"model": {"hidden": 4, "projection": 4}, "gates": []}
    spec["train"] |= {"epochs": 1, "batch_size": 8}
    (tmp_path / "bars.json").write_text(json.dumps(spec))
    predictor = load(finish(tmp_path / "bars.json"))
    batches = list(predictor.predict_file(spec["data"]["path"], "date"))
    (newest,) = [batch.tasks for batch in batches[-1:]]
    data = load_data(predictor.spec, tmp_path).validation
    own = predictor.of_inputs({"features": data.inputs["features"][-1:]})
    for task, found in own.items():
        np.testing.assert_allclose(newest[task].values[-1:], found.values, rtol=1e-4, atol=1e-5)
    series = pa.csv.read_csv(spec["data"]["path"])
    table = series.rename_columns([name.lower() for name in series.column_names])
    few = predictor.predict(table.slice(len(table) - 125))
    assert few["type"].values.shape == (1, 3)
    np.testing.assert_allclose(few["type"].values, own["type"].values, rtol=1e-4)
    with pytest.raises(
        InputError, match="124 bars; a window needs 20 bars of history and 105 more"
    ):
        predictor.predict(table.slice(len(table) - 124))
