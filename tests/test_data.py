"""Loading: the shipped bars, arrays in every format, and every fault of a spec against its data."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from numpy.typing import NDArray

from job.data import Dataset, load
from job.faults import InputError
from job.spec import JobSpec

DOCKER = Path(__file__).parent.parent / "docker"
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
    return spec({"kind": "arrays", "path": path, **data}, tasks, seed=seed)


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
        pairs = [(a.features, b.features), *((a.targets[k], b.targets[k]) for k in a.targets)]
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
        assert split.features.shape == (n, 105, 12)
        assert split.features.dtype == torch.float32
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
    n = len(made.train.features) + len(made.validation.features)
    assert n + made.skipped["windows across the split"] == 5031 - 105 + 1 - 20


def test_loading_is_deterministic() -> None:
    """Two loads give the same bits."""
    same(load(of_bars(windows=50), DOCKER), load(of_bars(windows=50), DOCKER))


def test_bad_bars_and_bad_tasks_at_once(tmp_path: Path) -> None:
    """Faults of the file and targets that bars do not have are told together."""
    (tmp_path / "b.csv").write_text("Date,Open,High,Low,Close\n2024-01-01,1,1,1,x\n")
    lines = faults(of_bars([task("countdwn", "step")], path="b.csv", date_format=None), tmp_path)
    assert lines[0].startswith('b.csv, row 2, column close: found "x"')
    assert lines[1].startswith('$.tasks[0].target: found "countdwn"; the data has type, pointers')
    assert lines[1].endswith('did you mean "countdown"?')


def test_class_outside_the_head() -> None:
    """A class that the head lacks is told with the edit that gives it one."""
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
        assert torch.equal(split.features, torch.tensor(stored["features"][rows]).float())
        for name, values in split.targets.items():
            expected = torch.tensor(stored[name][rows]).reshape(values.shape)
            assert torch.equal(values, expected.to(values.dtype))


def test_flat_features(tmp_path: Path) -> None:
    """[N, F] is read as one step; a per-step target may leave that axis out."""
    save(tmp_path / "a.npz", {"x": np.ones((5, 4), np.int64), "y": np.arange(5.0)})
    tasks = [task("a", "step", target="y"), task("b", target="y")]
    made = load(spec({"kind": "arrays", "path": "a.npz", "features": "x"}, tasks), tmp_path)
    assert made.train.features.shape == (4, 1, 4)
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
    assert torch.equal(made.train.features, torch.ones(4, 1, 4))


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


@pytest.mark.parametrize(("share", "held_out"), [(0.001, 1), (0.999, 4)])
def test_a_sample_on_each_side(tmp_path: Path, share: float, held_out: int) -> None:
    """However small the share, each split has a sample."""
    save(tmp_path / "a.npz", {"features": np.ones((5, 1)), "y": np.arange(5)})
    data = {"kind": "arrays", "path": "a.npz", "validation": share}
    made = load(spec(data, [task("y")], train={"epochs": 1, "batch_size": 1}), tmp_path)
    assert len(made.validation.features) == held_out
    assert len(made.train.features) == 5 - held_out


def changed(name: str, index: tuple[int, ...], value: float) -> dict[str, Array]:
    stored = arrays()
    stored[name] = stored[name].astype(np.float64)
    stored[name][index] = value
    return stored


@pytest.mark.parametrize(
    ("stored", "where", "say"),
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
        (arrays() | {"features": np.ones(10)}, "a.npz, column features", "[N, T, F] or [N, F]"),
        (arrays() | {"features": np.ones((10, 3, 0))}, "a.npz, column features", "[10, 3, 0]"),
        (arrays() | {"features": np.array(["x"] * 10)}, "a.npz, column features", "type <U1"),
        (arrays() | {"level": np.array([{}] * 10)}, "a.npz, column level", "Object arrays"),
        (arrays() | {"level": np.ones(10, complex)}, "a.npz, column level", "type complex128"),
        (arrays() | {"level": np.ones(9)}, "$.tasks[2].target", "shape [9]; a window task of mse"),
        (arrays() | {"level": np.ones((10, 3))}, "$.tasks[2].level", 'set level to "step"'),
        (arrays() | {"path": np.ones(10)}, "$.tasks[4].level", 'set level to "window"'),
        (arrays() | {"pair": np.ones((10, 5))}, "$.tasks[3].outputs", "set outputs to 5"),
        (arrays() | {"path": np.ones((10, 4))}, "$.tasks[4].target", "needs [10, 3, 1]"),
        (arrays(4), "$.train.batch_size", "found 4; the training set has 3 samples; set it to 3"),
    ],
)
def test_one_fault(tmp_path: Path, stored: dict[str, Array], where: str, say: str) -> None:
    """One fault makes one line, with file, row and column, or the JSON path of what to edit."""
    np.savez(tmp_path / "a.npz", allow_pickle=True, **stored)
    (line,) = faults(of_arrays(), tmp_path)
    assert line.startswith(f"{where}: found ")
    assert say in line


def test_all_faults_at_once(tmp_path: Path) -> None:
    """Every fault is told, ten of one rule one by one and the others by number."""
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
        *(f"a.npz, row {i // 3}, column path[{i % 3}]" for i in range(10)),
        "a.npz, column path",
    ]


def test_unknown_names(tmp_path: Path) -> None:
    """Names that the file lacks are told, features and targets alike, with the nearest."""
    save(tmp_path / "a.npz", arrays())
    lines = faults(of_arrays(features="feature", tasks=[task("a", target="levl")]), tmp_path)
    assert lines[0].startswith('$.data.features: found "feature"; the data has features, kind')
    assert lines[0].endswith('did you mean "features"?')
    assert lines[1].startswith('$.tasks[0].target: found "levl"')
    assert lines[1].endswith('did you mean "level"?')


@pytest.mark.parametrize(
    ("values", "say"),
    [
        (
            [[1.0], [2.0, 3.0]],
            "a.parquet, row 1, column y: found a list of 2 items, and",
        ),
        ([[[1, 2]], [[1, 2], None]], "row 1, column y: found a list of 2 items"),
        ([[[1], [2]], [[1], None]], "a.parquet, row 1, column y: found an empty value"),
        ([[1, 2], None], "a.parquet, row 1, column y: found an empty value"),
        ([[1, 2], [3, None]], "a.parquet, row 1, column y: found an empty value"),
        (["1", "2"], "a.parquet, column y: found type string"),
    ],
)
def test_bad_parquet(tmp_path: Path, values: list[Any], say: str) -> None:
    """Lists of unequal lengths, missing values and texts are told by their row."""
    table = pa.table({"features": [[1.0], [2.0]], "y": values})
    pq.write_table(table, tmp_path / "a.parquet")
    (line,) = faults(of_arrays("a.parquet", [task("y")]), tmp_path)
    assert say in line


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors", "a.parquet"])
@pytest.mark.parametrize("content", [b"", b"not a file of that kind", b"PK\x03\x04 cut off", None])
def test_bad_file(tmp_path: Path, name: str, content: bytes | None) -> None:
    """A missing, empty or foreign file is told by its name."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    (line,) = faults(of_arrays(name), tmp_path)
    found = "no file at" if content is None else "an unreadable file (" if content else "an empty"
    assert line.startswith(f"{name}: found {found}")


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors", "a.parquet"])
def test_damaged_file(tmp_path: Path, name: str) -> None:
    """A file cut off anywhere is told as such, never read in part."""
    save(tmp_path / name, arrays())
    whole = (tmp_path / name).read_bytes()
    for end in range(1, len(whole), len(whole) // 20):
        (tmp_path / name).write_bytes(whole[:end])
        (line,) = faults(of_arrays(name), tmp_path)
        assert line.startswith(f"{name}: found an unreadable file (")


def test_pickle_is_never_opened(tmp_path: Path) -> None:
    """A pickle named .npz is refused, and what it would run does not run."""

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    import pickle

    (tmp_path / "a.npz").write_bytes(pickle.dumps(Trap()))
    assert "a.npz: found an unreadable file" in faults(of_arrays(), tmp_path)[0]
    np.savez(tmp_path / "a.npz", allow_pickle=True, **arrays() | {"level": np.array([Trap()])})
    assert "a.npz, column level: found Object arrays" in faults(of_arrays(), tmp_path)[0]
    assert not (tmp_path / "sprung").exists()


def test_other_endings(tmp_path: Path) -> None:
    """A file of another kind is refused by its name."""
    (line,) = faults(of_arrays("a.csv"), tmp_path)
    assert line.startswith('$.data.path: found "a.csv"; must end in .npz or .safetensors or')


# --- S3 ---------------------------------------------------------------------------------------


class Bucket(BaseHTTPRequestHandler):
    """The part of S3 that reading needs: an object, one that is missing, one that is forbidden."""

    content = b""

    def do_GET(self) -> None:
        known = {"/bucket/a.npz": (200, ""), "/bucket/secret.npz": (403, "AccessDenied")}
        status, code = known.get(self.path.split("?")[0], (404, "NoSuchKey"))
        error = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        body = self.content if status == 200 else error
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    save(tmp_path / "a.npz", arrays())
    Bucket.content = (tmp_path / "a.npz").read_bytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("bucket")
def test_s3(tmp_path: Path) -> None:
    """An object in S3 is read like a file."""
    same(load(of_arrays("s3://bucket/a.npz"), Path("/nowhere")), load(of_arrays(), tmp_path))


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("url", "say"),
    [
        ("s3://bucket/b.npz", "found the store's answer NoSuchKey; the object must be readable"),
        ("s3://bucket/secret.npz", "found the store's answer AccessDenied"),
        ("s3://BUCKET?/a.npz", "Invalid bucket name"),
    ],
)
def test_s3_refuses(tmp_path: Path, url: str, say: str) -> None:
    """An object that is missing or forbidden is told by its URL."""
    (line,) = faults(of_arrays(url), tmp_path)
    assert line.startswith(f"{url}: found ")
    assert say in line


@pytest.mark.usefixtures("bucket")
def test_s3_without_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials the error says so and where they belong."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    (line,) = faults(of_arrays("s3://bucket/a.npz"), tmp_path)
    assert line.startswith("s3://bucket/a.npz: found Unable to locate credentials;")
    assert "the credentials in the environment" in line
