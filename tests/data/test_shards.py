"""A folder of shards: what it gives is what one file in memory gives, and faults are one line."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from job.data.dataset import Dataset, load
from job.data.shards import rows
from job.data.shards.folder import read_shards
from job.data.shards.rows import Files, Piece, Rows
from job.errors import InputError
from job.spec import JobSpec
from job.store import Unavailable, open_store
from tests.data.test_data import spec, task
from tests.support.faulty_proxy import Proxy, Request
from tests.support.shards import FORMATS, write_shards

Array = NDArray[Any]
N = 40


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("EVENGRAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def arrays(n: int = N) -> dict[str, Any]:
    """Features, targets and marks of n samples."""
    draw = np.random.default_rng(n)
    return {
        "features": draw.normal(size=(n, 3, 2)),
        "level": draw.normal(size=n),
        "kind": draw.integers(0, 3, n),
        "group": draw.integers(0, 9, n),
        "part": np.arange(n) % 3,
    }


def shards_spec(path: str = "shards/", **data: Any) -> JobSpec:
    tasks = [task("level"), task("kind", loss="cross_entropy", outputs=3)]
    return spec({"kind": "arrays", "path": path, **data}, tasks)


def assert_equal(one: Dataset, other: Dataset) -> None:
    """The same samples in every split, and the same statistics."""
    for name in ("train", "validation", "test"):
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine is None:
            assert theirs is None
            continue
        for key, x in mine.inputs.items():
            assert x.shape == theirs.inputs[key].shape
            assert x[:].dtype == theirs.inputs[key][:].dtype
            assert np.array_equal(x[:], theirs.inputs[key][:], equal_nan=x[:].is_floating_point())
        for key, y in mine.targets.items():
            assert torch.equal(y, theirs.targets[key])
    for key, stats in one.stats.items():
        for a, b in zip(stats, other.stats[key], strict=True):
            assert np.array_equal(a, b)


SPLITS: list[dict[str, Any]] = [
    {"split": "random", "test": 0.2},
    {"split": "tail"},
    {"split": {"stratified": "kind"}, "test": 0.1},
    {"split": {"group": "group"}},
    {"split": {"column": "part"}},
    {"missing": "mean"},
]


@pytest.mark.parametrize("data", SPLITS, ids=str)
@pytest.mark.parametrize("form", FORMATS)
def test_shards_give_what_a_file_gives(tmp_path: Path, form: str, data: dict[str, Any]) -> None:
    """Bit for bit, in every format and under every split; features are not read into memory."""
    whole = arrays()
    if "missing" in data:
        whole["features"][5, 1, 1] = np.nan
    np.savez(tmp_path / "whole.npz", **whole)
    write_shards(tmp_path / "shards", whole, form, cuts=(0, 7, 8, 30, N))
    one = load(shards_spec("whole.npz", **data), tmp_path, test=True)
    other = load(shards_spec(**data), tmp_path, test=True)
    assert isinstance(other.train.inputs["features"], Rows)
    assert_equal(one, other)
    assert one.skipped == {k.replace("shards/", "whole.npz"): v for k, v in other.skipped.items()}


def test_a_folder_for_validation(tmp_path: Path) -> None:
    """Validation and test may be folders too."""
    parts = {"train": arrays(), "later": arrays(20), "last": arrays(10)}
    for name, part in parts.items():
        np.savez(tmp_path / f"{name}.npz", **part)
        write_shards(tmp_path / name, part, "npy", cuts=(0, 6, len(part["level"])))
    held = {"validation": "later", "test": "last"}
    files = {key: {"path": f"{name}.npz"} for key, name in held.items()}
    folders = {key: {"path": f"{name}/"} for key, name in held.items()}
    one = load(shards_spec("train.npz", **files), tmp_path, test=True)
    assert_equal(one, load(shards_spec("train", **folders), tmp_path, test=True))


IMAGES = [
    {"kind": "image"},
    {"kind": "image", "channels": "last"},
    {"kind": "image", "channels": "first"},
    {"kind": "numbers"},
    {"kind": "tokens"},
]


@pytest.mark.parametrize("about", IMAGES, ids=str)
def test_named_inputs(tmp_path: Path, about: dict[str, Any]) -> None:
    """Images and numbers stay on disk, in the order of axes that a network reads; tokens do not."""
    draw = np.random.default_rng(0)
    shape = (N, 5, 4) if about == {"kind": "image"} else (N, 5, 4, 3)
    whole: dict[str, Any] = {
        "x": draw.integers(0, 255, shape).astype(np.uint8),
        "y": draw.normal(size=(N, 2)),
        "level": draw.normal(size=N),
        "kind": draw.integers(0, 3, N),
    }
    inputs = {"x": about, "y": {"scale": "none"}}
    np.savez(tmp_path / "whole.npz", **whole)
    write_shards(tmp_path / "shards", whole, "npy", cuts=(0, 11, N))
    one, other = (load(shards_spec(p, inputs=inputs), tmp_path) for p in ("whole.npz", "shards/"))
    assert set(other.train.on_disk) == ({"y"} if about["kind"] == "tokens" else {"x", "y"})
    assert_equal(one, other)


def test_padded_inputs_are_read_into_memory(tmp_path: Path) -> None:
    """With lengths, samples are as a file gives them, and none of their inputs stays on disk."""
    whole = arrays() | {"count": np.arange(N) % 3 + 1}
    inputs = {"x": {"source": "features", "lengths": "count"}}
    np.savez(tmp_path / "whole.npz", **whole)
    write_shards(tmp_path / "shards", whole, "npy", cuts=(0, 11, N))
    one, other = (load(shards_spec(p, inputs=inputs), tmp_path) for p in ("whole.npz", "shards/"))
    assert not other.train.on_disk
    assert_equal(one, other)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float8_e5m2"])
def test_small_floats(tmp_path: Path, name: str) -> None:
    """Types that numpy lacks are read as float32."""
    values = torch.randn(N, 3, 2).to(getattr(torch, name))
    rest = {k: torch.from_numpy(v) for k, v in arrays().items() if k != "features"}
    (tmp_path / "shards").mkdir()
    safetensors.torch.save_file({"features": values, **rest}, tmp_path / "shards" / "a.safetensors")
    read = load(shards_spec(split="tail"), tmp_path).train.inputs["features"][:]
    assert torch.equal(read, values[: len(read)].float())


def test_lists_and_texts_of_arrow(tmp_path: Path) -> None:
    """Plain lists of one length, tensors in the streaming format, texts as classes."""
    x = np.random.default_rng(0).normal(size=(N, 4)).astype("f4")
    kinds = np.array(["low", "mid", "high"])[np.arange(N) % 3]
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(x.reshape(N, 2, 2)))
    for name, column in (("lists", pa.array(x.tolist(), pa.list_(pa.float32()))), ("t", tensors)):
        table = pa.table({"features": column, "level": np.arange(N), "kind": kinds})
        (tmp_path / name).mkdir()
        form = pa.ipc.new_file if name == "lists" else pa.ipc.new_stream
        with form(tmp_path / name / "a.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=9)
        data = load(shards_spec(name, split="tail"), tmp_path)
        assert data.classes == {"kind": ["high", "low", "mid"]}
        assert np.array_equal(data.train.inputs["features"][:].flatten(1).numpy(), x[:32])


# --- reading rows -------------------------------------------------------------------------------


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any), st.data())
def test_rows_are_an_array(tmp_path: Path, sizes: list[int], data: st.DataObject) -> None:
    """Views of views, indices with repeats and slices: as numpy has them."""
    n, path = sum(sizes), tmp_path / "rows"
    whole = np.arange(n * 6, dtype="<i2").reshape(n, 2, 3)
    path.write_bytes(b"head" + whole.tobytes())
    starts = np.cumsum([0, *sizes])
    pieces = [Piece(path, 4 + 12 * int(a), k) for a, k in zip(starts, sizes, strict=False)]
    array = Rows(pieces, (2, 3), np.dtype("<i2"))
    index = st.lists(st.integers(0, n - 1), min_size=1, max_size=9)
    first = np.array(data.draw(index))
    second = np.array(data.draw(st.lists(st.integers(0, len(first) - 1), min_size=1)))
    view = array.take(first).take(second)
    wanted = whole[first][second]
    assert np.array_equal(view[:].numpy(), wanted)
    at = torch.from_numpy(second % len(view))
    view.will_need(at)
    assert np.array_equal(view[at].numpy(), wanted[at.numpy()])
    assert np.array_equal(view[1:3].numpy(), wanted[1:3])
    assert np.array_equal(view.reshape(len(view), -1)[:].numpy(), wanted.reshape(len(view), 6))
    last = view.channels_last().astype(np.float32)
    assert np.array_equal(last[:].numpy(), np.moveaxis(wanted, 1, -1).astype("f4"))
    again = pickle.loads(pickle.dumps(view))
    assert torch.equal(again[:], view[:])
    assert view.shape == wanted.shape


def test_a_copy_for_another_process_is_small(tmp_path: Path) -> None:
    """What is sent to other ranks are paths and positions."""
    write_shards(tmp_path / "shards", arrays(), "npy", cuts=(0, N))
    data = load(shards_spec(), tmp_path)
    data.train.inputs["features"][:]
    assert len(pickle.dumps(data.train.inputs)) < 2000


def test_files_are_closed(tmp_path: Path) -> None:
    """Descriptors end with the array and its views."""
    np.save(tmp_path / "x-0.npy", np.zeros((4, 2)))
    read, _ = read_shards("", tmp_path, {"x"}, (), {"x"})
    view = read.pop("x").take(np.array([1, 2]))
    before = len(os.listdir("/proc/self/fd"))
    view[:]
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del view
    assert len(os.listdir("/proc/self/fd")) == before


def test_many_shards_need_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of open files is raised as far as the system allows; beyond, a fault."""
    set_to: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (300, 1000))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: set_to.append(pair))
    rows.check_files(10, "shards/")
    rows.check_files(500, "shards/")
    assert set_to == [(756, 1000)]
    with pytest.raises(InputError, match="found 800 shards; a process here may open 1000 files"):
        rows.check_files(800, "shards/")


# --- faults -------------------------------------------------------------------------------------


def fault(folder: Path, path: str = "shards/", **data: Any) -> str:
    """The only fault of a folder."""
    with pytest.raises(InputError) as raised:
        load(shards_spec(path, **data), folder)
    assert len(raised.value.faults) == 1, raised.value
    return str(raised.value)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 20)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(b"\x01garbage" * 50)


def first_file(form: str) -> str:
    return "features-00001.npy" if form == "npy" else f"part-00001.{form}"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (cut, "cut off|damaged"),
        (empty, "found an empty file"),
        (garbage, "damaged"),
        (Path.unlink, "no such file; the shards are numbered from 0 to 2"),
    ],
)
def test_a_damaged_shard(
    tmp_path: Path, form: str, damage: Callable[[Path], None], found: str
) -> None:
    """Cut off, empty, of another kind, missing: one line that names the shard."""
    write_shards(tmp_path / "shards", arrays(), form, cuts=(0, 10, 20, N))
    damage(tmp_path / "shards" / first_file(form))
    line = fault(tmp_path)
    assert line.startswith(f"shards/{first_file(form)}: ")
    assert any(part in line for part in found.split("|"))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("change", ["shape", "type", "absent"])
def test_a_shard_unlike_the_others(tmp_path: Path, form: str, change: str) -> None:
    """Another shape or type of rows, or an array that is not there."""
    write_shards(tmp_path / "shards", arrays(), form, cuts=(0, 20, N))
    odd = {name: x[20:] for name, x in arrays().items()}
    if change == "shape":
        odd["features"] = odd["features"][:, :, :1]
    elif change == "type":
        odd["features"] = odd["features"].astype("f4")
    elif form == "npy":
        return  # each array has its own shards
    else:
        del odd["level"]
    write_shards(tmp_path / "shards", odd, form, cuts=(0, N - 20), first=1)
    line = fault(tmp_path)
    assert line.startswith(f"shards/{first_file(form)}")
    assert "shards/" in line.split("; ")[1]
    assert "write all shards alike" in line


def test_faults_of_a_folder(tmp_path: Path) -> None:
    """No folder, nothing in it, two kinds, too few by its own names, a list of columns."""
    assert "no folder at" in fault(tmp_path)
    (tmp_path / "shards").mkdir()
    assert "found no shard; a folder holds shards of one kind" in fault(tmp_path)
    write_shards(tmp_path / "shards", arrays(), "npy", cuts=(0, N))
    (tmp_path / "shards" / "notes.txt").write_text("not a shard")
    assert "batch" not in str(load(shards_spec(), tmp_path))
    assert "names columns of a table" in fault(tmp_path, features=["a"])
    write_shards(tmp_path / "shards", arrays(), "parquet", cuts=(0, N))
    assert "found .npy and .parquet" in fault(tmp_path)
    for part in (1, 3):
        folder = tmp_path / "some"
        write_shards(folder, arrays(), "safetensors", cuts=(0, N))
        os.rename(folder / "part-00000.safetensors", folder / f"a-0000{part}-of-00004.safetensors")
    assert "a-00002-of-00004.safetensors: found no such file, and 1 more" in fault(tmp_path, "some")


def test_values_that_are_refused(tmp_path: Path) -> None:
    """A value deep in a later shard is named by its row among all; a target may be too short."""
    whole = arrays()
    whole["features"][33, 2, 1] = np.inf
    write_shards(tmp_path / "shards", whole, "npy", cuts=(0, 20, N))
    assert fault(tmp_path).startswith("shards/, row 33, column features[2, 1]: found inf")
    write_shards(tmp_path / "short", arrays(), "npy", cuts=(0, 20, N))
    (tmp_path / "short" / "level-00001.npy").unlink()
    assert "the features have 40 rows, the target 20 rows" in fault(tmp_path, "short")


def test_arrow_that_does_not_lie_as_an_array(tmp_path: Path) -> None:
    """Compressed data, lists of several lengths and empty values are refused, with the remedy."""
    (tmp_path / "shards").mkdir()
    path = tmp_path / "shards" / "a.arrow"
    x = [[1.0, 2.0]] * N
    rest = {"level": np.arange(N), "kind": np.arange(N) % 3}
    for features, options, found in (
        (x, pa.ipc.IpcWriteOptions(compression="lz4"), "compressed data"),
        ([[1.0], *x[1:]], None, "lists of several lengths"),
        ([[None, 2.0], *x[1:]], None, "empty values"),
        ([["a", "b"], *([["a", "b"]] * (N - 1))], None, "type string"),
    ):
        table = pa.table({"features": features, **rest})
        with pa.ipc.new_file(path, table.schema, options=options) as writer:
            writer.write_table(table)
        line = fault(tmp_path)
        assert f"found {found}" in line
        assert "write it as fixed-size lists" in line


def test_rows_that_do_not_lie_together(tmp_path: Path) -> None:
    """Fortran's order, Python objects and single numbers are refused."""
    write_shards(tmp_path / "shards", arrays(), "npy", cuts=(0, N))
    path = tmp_path / "shards" / "features-00000.npy"
    for value, found in (
        (np.asfortranarray(np.ones((N, 3, 2))), "rows that are scattered"),
        (np.array([{}] * N), "Python objects"),
        (np.float64(3), "a single number"),
    ):
        np.save(path, value, allow_pickle=True)
        assert found in fault(tmp_path)


def test_targets_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read into memory is refused before it fills it."""
    write_shards(tmp_path / "shards", arrays(), "npy", cuts=(0, 20, N))
    monkeypatch.setattr("job.data.shards.folder.MEMORY", 1e-12)
    line = fault(tmp_path)
    assert "only features stay on disk" in line


# --- Parquet and the cache ----------------------------------------------------------------------


def test_parquet_is_converted_once(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard is copied to the cache when it is first read, and again if it has changed."""
    write_shards(tmp_path / "shards", arrays(), "parquet", cuts=(0, 20, N))
    load(shards_spec(), tmp_path)
    first = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert len(first) == 2
    load(shards_spec(), tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in kept.iterdir()} == first
    changed = {name: x[:20] * 2 for name, x in arrays().items() if name != "kind"}
    changed["kind"] = arrays()["kind"][:20]
    write_shards(tmp_path / "shards", changed, "parquet", cuts=(0, 20))
    data = load(shards_spec(split="tail"), tmp_path)
    read = data.train.inputs["features"][:20].numpy()
    assert np.array_equal(read, (arrays()["features"][:20] * 2).astype("f4"))


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names the cache, and no file in its place."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    write_shards(tmp_path / "shards", arrays(), "parquet", cuts=(0, N))
    monkeypatch.setattr(os, "fsync", full)
    line = fault(tmp_path)
    assert line.startswith(f"{tmp_path / 'cache'}: found a full disk")
    assert "EVENGRAD_CACHE" in line
    monkeypatch.undo()
    monkeypatch.setenv("EVENGRAD_CACHE", str(tmp_path / "cache"))
    assert load(shards_spec(), tmp_path).rows == N


# --- S3 -----------------------------------------------------------------------------------------


@pytest.fixture
def bucket(s3_url: str, tmp_path: Path) -> str:
    """Shards under a prefix of the S3 server."""
    write_shards(tmp_path / "shards", arrays(), "npy", cuts=(0, 10, 20, 30, N))
    store = open_store(s3_url)
    for path in sorted((tmp_path / "shards").iterdir()):
        store.put(path.name, path.read_bytes())
    return f"{s3_url}/"


def test_s3(bucket: str, tmp_path: Path, proxy: Proxy) -> None:
    """A folder in S3 gives what it gives on disk; what is there is not fetched again."""
    asked: list[str] = []

    def watch(request: Request) -> None:
        if request.method == "GET" and ".npy" in request.path:
            asked.append(request.path)

    proxy.rule = watch
    one, other = (load(shards_spec(path), tmp_path) for path in ("shards/", bucket))
    assert_equal(one, other)
    assert len(asked) == len(set(asked)) == 20  # unneeded arrays too
    load(shards_spec(bucket), tmp_path)
    assert len(asked) == 20
    open_store(bucket.rstrip("/")).put(
        "level-00002.npy", (tmp_path / "shards" / "level-00001.npy").read_bytes()
    )
    load(shards_spec(bucket), tmp_path)
    assert len(asked) == 21


def test_an_interrupted_fetch_goes_on(
    bucket: str, tmp_path: Path, kept: Path, proxy: Proxy
) -> None:
    """The shards that came are kept, whole; the next start fetches the others alone."""
    served: list[str] = []

    def some(request: Request) -> Any:
        if request.method == "GET" and ".npy" in request.path:
            if len(served) >= 7:
                return "403"
            served.append(request.path)
        return None

    proxy.rule = some
    with pytest.raises((InputError, Unavailable)):
        load(shards_spec(bucket), tmp_path)
    whole = [path for path in kept.iterdir() if path.suffix == ".npy"]
    assert 0 < len(whole) <= 7
    assert all(np.load(path).shape[0] == 10 for path in whole)
    again: list[str] = []
    proxy.rule = lambda request: again.append(request.path) if ".npy" in request.path else None
    assert load(shards_spec(bucket), tmp_path).rows == N
    assert len(again) == 20 - len(whole)
    assert not threading.active_count() > 20


def test_damaged_on_the_way(
    bucket: str, tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that change on the way are read again, and are a fault if they change each time."""
    from job.store.s3 import S3Store

    honest, reads = S3Store.stream, [0]

    def spoiled(times: int) -> Callable[..., Any]:
        def stream(self: S3Store, key: str, *rest: Any) -> Any:
            etag, pieces = honest(self, key, *rest)
            data = bytearray(b"".join(pieces))
            if key == "features-00002.npy" and reads[0] < times:
                reads[0] += 1
                data[-8:] = reads[0].to_bytes(8)
            return etag, iter([bytes(data)])

        return stream

    monkeypatch.setattr(S3Store, "stream", spoiled(9))
    assert "found other bytes at each read" in fault(tmp_path, bucket)
    reads[0] = 0
    monkeypatch.setattr(S3Store, "stream", spoiled(1))
    assert_equal(load(shards_spec("shards/"), tmp_path), load(shards_spec(bucket), tmp_path))


def test_no_room_for_a_fetch(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that the disk cannot hold is refused before anything is fetched."""
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert "EVENGRAD_CACHE" in fault(tmp_path, bucket)


def test_files_are_opened_anew() -> None:
    """A copy of the open files has none open."""
    assert pickle.loads(pickle.dumps(Files())).__dict__ == Files().__dict__


def test_nothing_in_s3(s3_url: str, tmp_path: Path) -> None:
    """A prefix without shards is one line."""
    assert "found no shard" in fault(tmp_path, f"{s3_url}/")


def test_numbers_that_are_dates_give_the_order_alone(tmp_path: Path) -> None:
    """They have gaps, and no file is missing for that."""
    whole = arrays()
    np.savez(tmp_path / "whole.npz", **whole)
    write_shards(tmp_path / "shards", whole, "safetensors", cuts=(0, 7, 30, N), first=2)
    for k, date in enumerate((20231230, 20240102, 20240301), 2):
        (tmp_path / "shards" / f"part-{k:05}.safetensors").rename(
            tmp_path / "shards" / f"part-{date}.safetensors"
        )
    one = load(shards_spec("whole.npz"), tmp_path)
    assert_equal(load(shards_spec(), tmp_path), one)


def test_a_parquet_shard_without_rows(tmp_path: Path) -> None:
    """It is named, now and the next time, and leaves nothing behind in the cache."""
    write_shards(tmp_path / "shards", arrays(), "parquet", cuts=(0, 7, 7, N))
    for _ in range(2):
        with pytest.raises(InputError, match=r"part-00001\.parquet: found no rows; must hold data"):
            load(shards_spec(), tmp_path)
