"""Named arrays from .npz, .safetensors or .parquet, on disk or in S3; nothing is unpickled."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import safetensors.torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from job.data.files import START, check_file, download, wrong_kind
from job.data.tables.table import decoded
from job.errors import Fault, InputError

Array = NDArray[Any]
_Names = list[str]
TABLES = (".csv", ".csv.gz")
"""Ends of files that are tables of cells (job.data.tables.columns)."""
REWRITE = "write the data in one of these formats"


def read_arrays(
    source: str, folder: Path, wanted: set[str], texts: Collection[str] = ()
) -> tuple[dict[str, Array], _Names]:
    """Those of the wanted arrays that the file holds, and the names of all that it holds.

    source: the path as the user wrote it, relative to `folder`, or s3://bucket/key. texts: names of
    arrays that may hold texts, which are objects then. Raises InputError if the file or one of the
    wanted arrays cannot be read as that.
    """
    check_ending(source)
    form = _FORMATS[Path(source).suffix.lower()]
    with _open(source, folder) as file:
        try:
            arrays, names = form.read(file, source, wanted, texts)
        except InputError:
            raise
        except form.errors:
            file.seek(0)
            raise wrong_kind(form.name, form.magic, source, file.read(START)) from None
    return check_numbers(source, arrays, texts), names


def check_numbers(source: str, arrays: dict[str, Any], texts: Collection[str]) -> dict[str, Any]:
    """The arrays, texts as objects; raises InputError for those without numbers or allowed texts.

    texts: names of arrays that may hold texts.
    """
    faults = [
        array_fault(source, name, _KINDS.get(array.dtype.kind, str(array.dtype)))
        for name, array in arrays.items()
        if array.dtype.kind not in "biuf" and not (array.dtype.kind in "UO" and name in texts)
    ]
    if faults:
        raise InputError(faults)
    texts_ = {
        name: array.astype(object)
        for name, array in arrays.items()
        if name in texts and array.dtype.kind == "U"
    }
    return arrays | texts_


def check_ending(source: str) -> None:
    """Raise InputError unless the name ends like one of a file of arrays or of a table."""
    if not source.lower().endswith(ENDINGS):
        rule = f"must end in {' or '.join(ENDINGS)}"
        raise InputError([Fault("$.data.path", f'"{source}"', rule, REWRITE)])


def _open(shown: str, folder: Path) -> IO[bytes]:
    if shown.startswith("s3://"):
        return io.BytesIO(download(shown))
    check_file(folder / shown, shown)
    return (folder / shown).open("rb")


# --- formats ----------------------------------------------------------------------------------


class _Foreign(ValueError):
    """The file is not of the kind that its name says."""


def _npz(
    file: IO[bytes], source: str, wanted: set[str], _: Collection[str]
) -> tuple[dict[str, Array], _Names]:
    if not zipfile.is_zipfile(file):
        raise _Foreign
    file.seek(0)
    stored = np.load(file, allow_pickle=False)
    if isinstance(stored, np.ndarray):
        raise _Foreign
    if not any(member.filename.endswith(".npy") for member in stored.zip.infolist()):
        rule, remedy = "must hold arrays of numpy", "write it with numpy.savez"
        raise InputError([Fault(source, "a zip archive without arrays", rule, remedy)])
    if not wanted.intersection(stored.files) and "arr_0" in stored.files:
        rule, remedy = "every array needs a name", "name them: numpy.savez(path, features=…)"
        raise InputError([Fault(source, "arrays without names", rule, remedy)])
    with stored:
        arrays = {}
        for name in sorted(wanted.intersection(stored.files)):
            try:
                arrays[name] = np.asarray(stored[name])
            except ValueError as error:  # Python objects would have to be unpickled
                found = "Python objects" if "pickle" in str(error) else "damaged data"
                raise InputError([array_fault(source, name, found)]) from None
        return arrays, stored.files


def _safetensors(
    file: IO[bytes], source: str, wanted: set[str], _: Collection[str]
) -> tuple[dict[str, Array], _Names]:
    """Read by torch, as numpy has no bfloat16 and no 8-bit floats: these become float32."""
    stored = safetensors.torch.load(file.read())
    small = {k: v.is_floating_point() and v.itemsize < 4 for k, v in stored.items()}
    arrays = {k: (v.float() if small[k] else v).numpy() for k, v in stored.items() if k in wanted}
    return arrays, sorted(stored)


def _parquet(
    file: IO[bytes], source: str, wanted: set[str], texts: Collection[str]
) -> tuple[dict[str, Array], _Names]:
    with pa.parquet.ParquetFile(file) as stored:
        names = stored.schema_arrow.names
        here = [name for name in names if name in wanted]
        table = stored.read(columns=here)
    return {n: dense(table.column(n), source, n, n in texts) for n in here}, names


def dense(chunks: pa.ChunkedArray, source: str, name: str, texts: bool, first: int = 0) -> Array:
    """Numbers, tensors of a fixed shape, or lists nested to any depth, as an array [N, …].

    texts: texts are taken too. first: number of the first row, for messages.
    """
    if isinstance(chunks.type, pa.FixedShapeTensorType):
        return _tensors(chunks, source, name, first)
    column, shape = decoded(chunks).combine_chunks(), [len(chunks)]
    while is_list(column.type):
        lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
        length = int(lengths[0]) if len(lengths) else 0
        if len(bad := np.flatnonzero((lengths != length) | (lengths < 0))):
            row, items = bad[0] // math.prod(shape[1:]), lengths[bad[0]]
            found = f"a list of {items} items, and of {length} in the first row"
            raise _cell_error(source, name, found if items >= 0 else "an empty value", first + row)
        shape.append(length)
        column = column.flatten()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
    types, kind = pa.types, column.type
    if types.is_decimal(kind):
        column = pc.cast(column, pa.float64())
    elif texts and _kind_of(kind) == "texts":
        pass
    elif not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise InputError([array_fault(source, name, _kind_of(kind))])
    if column.null_count:
        row = np.flatnonzero(column.is_null())[0] // math.prod(shape[1:])
        raise _cell_error(source, name, "an empty value", first + row)
    return np.asarray(column.to_numpy(zero_copy_only=False)).reshape(shape)


def _tensors(chunks: pa.ChunkedArray, source: str, name: str, first: int) -> Array:
    """A column of tensors of one shape, as an array [N, …]."""
    column = chunks.combine_chunks()
    lists = column.storage
    if column.null_count or lists.flatten().null_count:
        items = math.prod(chunks.type.shape)
        inner = lists.flatten().is_null().to_numpy(zero_copy_only=False)
        empty = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
        row = empty[0] if len(empty) else np.flatnonzero(inner)[0] // items
        raise _cell_error(source, name, "an empty value", first + row)
    return np.asarray(column.to_numpy_ndarray())


def is_list(kind: pa.DataType) -> bool:
    """True for a type of lists."""
    types = pa.types
    return any(is_(kind) for is_ in (types.is_list, types.is_large_list, types.is_fixed_size_list))


def _kind_of(kind: pa.DataType) -> str:
    """What a column of that type holds, in plain words."""
    types = pa.types
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "texts"
    if types.is_date(kind) or types.is_timestamp(kind) or types.is_time(kind):
        return "dates"
    return f"type {kind}"


_KINDS = {
    "U": "texts",
    "S": "texts in bytes",
    "M": "dates",
    "m": "durations",
    "c": "complex numbers",
    "O": "Python objects",
    "V": "records",
}
"""Kind of a numpy type, and what an array of it holds."""
_CONVERSIONS = {
    "texts": "store numbers; for classes their numbers from 0",
    "dates": "store numbers, such as days since a date",
}


def array_fault(source: str, name: str, found: str) -> Fault:
    """The fault of an array that holds something else than numbers."""
    remedy = _CONVERSIONS.get(found, "store it as numbers")
    return Fault(f"{source}, column {name}", found, "must hold numbers", remedy)


def _cell_error(source: str, name: str, found: str, row: int) -> InputError:
    rule, remedy = "must hold numbers in one shape", "give every row as many numbers"
    return InputError([Fault(f"{source}, row {row}, column {name}", found, rule, remedy)])


NPZ_ERRORS = (
    *(OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, KeyError),
)
"""What a damaged .npz file makes its readers raise."""


class _Format(NamedTuple):
    """A kind of file."""

    name: str
    magic: bytes
    """How such a file begins; b"" if any way."""
    read: Callable[[IO[bytes], str, set[str], Collection[str]], tuple[dict[str, Array], _Names]]
    errors: tuple[type[Exception], ...]
    """What a damaged file makes `read` raise."""


_FORMATS = {
    ".npz": _Format(
        ".npz",
        b"PK",
        _npz,
        NPZ_ERRORS,
    ),
    ".safetensors": _Format("safetensors file", b"", _safetensors, (SafetensorError,)),
    ".parquet": _Format("Parquet file", b"PAR1", _parquet, (OSError, pa.ArrowException)),
}
"""By the ending of the file's name."""
ENDINGS = (*_FORMATS, *TABLES)
"""How the names of files with data end."""
