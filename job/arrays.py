"""Named arrays from .npz, .safetensors or .parquet, on disk or in S3. Nothing is ever unpickled."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import safetensors.torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from job.data_file import check_file, not_a
from job.faults import Fault, InputError

Array = NDArray[Any]
_Names = list[str]
REWRITE = "write the data in one of these formats"


def read_arrays(shown: str, folder: Path, wanted: set[str]) -> tuple[dict[str, Array], _Names]:
    """Those of the wanted arrays that the file holds, and the names of all that it holds.

    shown: the path as the user wrote it, relative to `folder`, or s3://bucket/key. Raises
    InputError where the file or one of the wanted arrays cannot be read as numbers.
    """
    suffix = Path(shown).suffix.lower()
    if suffix not in _READERS:
        ends = " or ".join(_READERS)
        raise InputError([Fault("$.data.path", f'"{shown}"', f"must end in {ends}", REWRITE)])
    kind, read, errors = _READERS[suffix]
    with _open(shown, folder) as file:
        try:
            arrays, names = read(file, shown, wanted)
        except InputError:
            raise
        except errors as error:
            raise not_a(kind, shown, error) from None
    faults = [
        Fault(f"{shown}, column {name}", f"type {array.dtype}", "must hold numbers", "convert it")
        for name, array in arrays.items()
        if array.dtype.kind not in "biuf"
    ]
    if faults:
        raise InputError(faults)
    return arrays, names


def _open(shown: str, folder: Path) -> IO[bytes]:
    if shown.startswith("s3://"):
        return io.BytesIO(_download(shown))
    check_file(folder / shown, shown)
    return (folder / shown).open("rb")


def _download(url: str) -> bytes:
    """The object's bytes; endpoint, region and credentials come from the environment."""
    import boto3.session  # heavy, and most runs read from disk
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = url.removeprefix("s3://").partition("/")
    remedy = "correct data.path, AWS_ENDPOINT_URL or the credentials in the environment"
    try:
        with (
            boto3.session.Session().client("s3").get_object(Bucket=bucket, Key=key)["Body"] as body
        ):
            content: bytes = body.read()
    except ClientError as error:
        found = f"the store's answer {error.response.get('Error', {}).get('Code', 'unknown')}"
        raise InputError([Fault(url, found, "the object must be readable", remedy)]) from None
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
        raise InputError([Fault(url, str(error), "the store must answer", remedy)]) from None
    if not content:
        raise InputError([Fault(url, "an empty object", "must hold data", "upload it anew")])
    return content


# --- formats ----------------------------------------------------------------------------------


def _npz(file: IO[bytes], shown: str, wanted: set[str]) -> tuple[dict[str, Array], _Names]:
    if not zipfile.is_zipfile(file):
        raise ValueError("not an archive of arrays")
    file.seek(0)
    stored = np.load(file, allow_pickle=False)
    if isinstance(stored, np.ndarray):
        raise ValueError("a single array without a name")
    with stored:
        arrays = {}
        for name in sorted(wanted.intersection(stored.files)):
            try:
                arrays[name] = np.asarray(stored[name])
            except ValueError as error:  # Python objects, which would have to be unpickled
                raise _unreadable(shown, name, str(error)) from None
        return arrays, stored.files


def _safetensors(file: IO[bytes], shown: str, wanted: set[str]) -> tuple[dict[str, Array], _Names]:
    """By torch, as numpy has no bfloat16 and no 8-bit floats: these become float32."""
    stored = safetensors.torch.load(file.read())
    small = {k: v.is_floating_point() and v.itemsize < 4 for k, v in stored.items()}
    arrays = {k: (v.float() if small[k] else v).numpy() for k, v in stored.items() if k in wanted}
    return arrays, sorted(stored)


def _parquet(file: IO[bytes], shown: str, wanted: set[str]) -> tuple[dict[str, Array], _Names]:
    with pa.parquet.ParquetFile(file) as stored:
        names = stored.schema_arrow.names
        here = [name for name in names if name in wanted]
        table = stored.read(columns=here)
    return {name: _dense(table.column(name), shown, name) for name in here}, names


def _dense(chunks: pa.ChunkedArray, shown: str, name: str) -> Array:
    """Numbers, or lists of them nested to any depth, as an array [N, …]."""
    column, shape = chunks.combine_chunks(), [len(chunks)]
    while _is_list(column.type):
        lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy()
        length = int(lengths[0]) if len(lengths) else 0
        if len(bad := np.flatnonzero((lengths != length) | (lengths < 0))):
            row, items = bad[0] // math.prod(shape[1:]), lengths[bad[0]]
            found = f"a list of {items} items, and of {length} in the first row"
            raise _unreadable(shown, name, found if items >= 0 else "an empty value", row)
        shape.append(length)
        column = column.flatten()
    types = pa.types
    if not any(is_(column.type) for is_ in (types.is_integer, types.is_floating, types.is_boolean)):
        raise _unreadable(shown, name, f"type {column.type}")
    if column.null_count:
        row = np.flatnonzero(column.is_null())[0] // math.prod(shape[1:])
        raise _unreadable(shown, name, "an empty value", row)
    return np.asarray(column.to_numpy(zero_copy_only=False)).reshape(shape)


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return any(is_(kind) for is_ in (types.is_list, types.is_large_list, types.is_fixed_size_list))


def _unreadable(shown: str, name: str, found: str, row: int | None = None) -> InputError:
    where = f"{shown}, column {name}" if row is None else f"{shown}, row {row}, column {name}"
    return InputError([Fault(where, found, "must hold numbers in one shape", "store it as such")])


_Reader = Callable[[IO[bytes], str, set[str]], tuple[dict[str, Array], _Names]]
_READERS: dict[str, tuple[str, _Reader, tuple[type[Exception], ...]]] = {
    ".npz": (".npz", _npz, (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)),
    ".safetensors": (".safetensors", _safetensors, (SafetensorError,)),
    ".parquet": ("Parquet file", _parquet, (OSError, pa.ArrowException)),
}
"""Ending → what the file is, its reader, and what a damaged file makes that raise."""
