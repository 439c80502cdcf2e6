"""Checks that hold for every data file, and the faults that all readers report alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from job.errors import Fault, InputError
from job.spec.read import NotAFileError, open_file
from job.store import StoreError, Unavailable, read_object

MOST_FAULTS = 10
"""Faults of one rule that are reported one by one; the others are counted."""
START = 512
"""Bytes at the beginning of a file by which its kind is recognised."""

_REWRITE = "write the file anew, or name the right one"
_KINDS: tuple[tuple[tuple[bytes, ...], str, str], ...] = (
    (
        (b"version https://git-lfs",),
        "a pointer of Git LFS in place of the file",
        "run git lfs pull",
    ),
    ((b"PAR1",), "a Parquet file", "let its name end in .parquet"),
    ((b"\x93NUMPY",), "a single array (.npy)", "save it with numpy.savez, by name"),
    ((b"\x1f\x8b",), "gzip data", "decompress it; only a CSV may be gzipped, as .csv.gz"),
    ((b"PK\x03\x04",), "a zip archive, which Excel files are too", _REWRITE),
    ((b"ARROW1", b"FEA1"), "an Arrow file", "write it as Parquet"),
    ((b"\x89HDF",), "an HDF5 file", "write its arrays with numpy.savez"),
    ((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), "a Python pickle", _REWRITE),
    ((b"\xd0\xcf\x11\xe0",), "an Excel file", "export it as CSV"),
    ((b"\xff\xfe", b"\xfe\xff"), "text in UTF-16", "save it as UTF-8"),
    ((b"<!doctype", b"<html", b"<?xml"), "a page in HTML or XML", "download the file itself"),
)
"""Beginnings of files (in lower case or as they are), what they are, and the remedy."""


def check_file(path: Path, source: str) -> None:
    """Raise InputError unless `path`, which the user wrote as `source`, is a file with content."""
    if "://" in source and not source.startswith("s3://"):
        rule, remedy = "data is a file or s3://bucket/key", "download it and name the file"
        raise InputError([Fault(source, "a URL", rule, remedy)])
    try:
        with open_file(path) as file:
            content = file.read(1)
    except FileNotFoundError:
        _refuse(source, f"no file at {path.absolute()}", "the file must exist")
    except NotAFileError as error:
        _refuse(source, str(error), "must be a file")
    except PermissionError:
        _refuse(source, "a file without permission to read", "the file must be readable")
    except (OSError, ValueError) as error:  # ValueError: no system takes the path
        why = getattr(error, "strerror", None) or error
        _refuse(source, f"an error: {why}", "the file must be readable")
    if not content:
        _refuse(source, "an empty file", "must hold data")


def _refuse(source: str, found: str, rule: str) -> None:
    raise InputError([Fault(source, found, rule, "correct data.path or supply the file")])


def first_bytes(path: Path) -> bytes:
    """The first START bytes of a file."""
    with path.open("rb") as file:
        return file.read(START)


def wrong_kind(kind: str, magic: bytes, source: str, start: bytes) -> InputError:
    """The error of a file that cannot be read as a `kind`.

    magic: how files of that kind begin; b"" if any way. start: the file's first START bytes.
    """
    known = None if magic and start.startswith(magic) else known_kind(start)
    found, remedy = known or ("damaged or cut off data", _REWRITE)
    text_is_wrong = "CSV" not in kind or bool(magic)
    if known is None and text_is_wrong and not start.startswith(magic or b"\0") and _is_text(start):
        found = "plain text"
    return InputError([Fault(source, found, f"must be a valid {kind}", remedy)])


def known_kind(start: bytes) -> tuple[str, str] | None:
    """What a file is by its first bytes, and the remedy; None if the bytes are no known sign."""
    for beginnings, name, remedy in _KINDS:
        if start.startswith(beginnings) or start.lower().startswith(beginnings):
            return name, remedy
    return None


def _is_text(start: bytes) -> bool:
    if len(start) < 8:
        return False  # too short to tell
    text = start.decode("utf-8", "replace").rstrip("\ufffd")
    return all(c.isprintable() or c in "\t\r\n" for c in text.replace("\ufffd", "\0"))


def first_faults(
    where: str,
    rows: NDArray[np.intp],
    total: int,
    fault_at: Callable[[int], Fault],
    unit: str = "rows",
) -> list[Fault]:
    """The faults of the first rows [n] that break a rule, and one `where` that counts the others.

    If all of `total` rows break it, the cause is no single row: one fault.
    """
    if len(rows) == total > 2:
        first = fault_at(int(rows[0]))
        return [replace(first, found=f"{first.found}, and the like in all {total} {unit}")]
    faults = [fault_at(int(row)) for row in rows[:MOST_FAULTS]]
    if len(rows) > MOST_FAULTS:
        more = f"these and {len(rows) - MOST_FAULTS} more"
        faults.append(replace(faults[-1], where=where, found=more))
    return faults


def download(url: str) -> bytes:
    """The object's bytes, not none; raises InputError, and StoreError if S3 is out of reach."""
    try:
        content = read_object(url, "$.data.path")
    except Unavailable:
        raise  # it may answer later: no fault of the spec
    except StoreError as error:
        found = str(error).removeprefix(f"{url}: ")
        remedy = "correct data.path, AWS_ENDPOINT_URL or the credentials in the environment"
        raise InputError([Fault(url, found, "the object must be readable", remedy)]) from None
    if not content:
        raise InputError([Fault(url, "an empty object", "must hold data", "upload it anew")])
    return content
