"""Cells read as numbers and as dates; a cell that is neither is a fault of its sheet."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from job.faults import Fault
from job.sheet import Sheet

Floats = NDArray[np.float64]
Dates = NDArray[np.datetime64]

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


def positive(sheet: Sheet, name: str) -> Floats:
    """The column's numbers [N]; NaN, and a fault, where a cell is none or not positive."""
    column = sheet.column(name)
    numbers = _as_numbers(column)
    if numbers is None:
        _wrong_type(sheet, name, column, "numbers")
        return np.full(len(column), np.nan)
    values: Floats = np.asarray(pc.cast(numbers, pa.float64(), safe=False).to_numpy())
    wrong, low = ~np.isfinite(values), values <= 0

    def tell(row: int, rule: str) -> tuple[str, str, str]:
        return _shown(column, row), rule, "correct the cell"

    sheet.blame(name, wrong, lambda i: tell(i, "must be a number"))
    sheet.blame(name, low & ~wrong, lambda i: tell(i, "must be a positive number"))
    return np.where(wrong | low, np.nan, values)


def _as_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """The column, null where a text is no number; None where its type has no numbers."""
    types, kind = pa.types, column.type
    if _is_text(column):
        trimmed = pc.utf8_trim_whitespace(column)
        return pc.if_else(pc.match_substring_regex(trimmed, _NUMBER), trimmed, None)
    known = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    return column if known else None


def dates(sheet: Sheet, name: str, date_format: str | None) -> Dates:
    """The column's dates [N], in UTC where they tell an offset; NaT, and a fault, where none.

    date_format: of strptime; None: ISO 8601.
    """
    column = sheet.column(name)
    if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
        values = np.asarray(pc.cast(column, pa.timestamp("us"), safe=False).to_numpy())
    elif not _is_text(column):
        _wrong_type(sheet, name, column, "dates")
        return np.full(len(column), "NaT", dtype="datetime64[us]")
    elif fault := _format_fault(date_format):
        sheet.faults.append(fault)
        return np.full(len(column), "NaT", dtype="datetime64[us]")
    else:
        texts = column.to_pylist()
        values = np.array([_date(text, date_format) for text in texts], dtype="datetime64[us]")
    rule = f"must be a date {f'of the form {date_format}' if date_format else 'in ISO 8601'}"
    remedy = "correct the cell, or set data.date_format to the file's, e.g. %m/%d/%Y"
    sheet.blame(name, np.isnat(values), lambda i: (_shown(column, i), rule, remedy))
    return values


def _date(text: str | None, date_format: str | None) -> datetime | None:
    """By Python, as pyarrow takes February 30 for March 1."""
    text = (text or "").strip()
    try:
        date = datetime.strptime(text, date_format) if date_format else datetime.fromisoformat(text)
        return date.astimezone(UTC).replace(tzinfo=None) if date.tzinfo else date
    except (ValueError, OverflowError):
        return None


def _format_fault(date_format: str | None) -> Fault | None:
    """A fault unless Python can read what it writes in this format."""
    try:
        if date_format:
            datetime.strptime(datetime(2000, 1, 2).strftime(date_format), date_format)
    except (ValueError, re.error) as error:
        found, rule = f'"{date_format}" ({error})', "must be a strptime format"
        return Fault("$.data.date_format", found, rule, "write it like %m/%d/%Y")
    return None


def _is_text(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _shown(column: pa.ChunkedArray, row: int) -> str:
    value = column[row].as_py()
    return "an empty cell" if value is None or not str(value).strip() else f'"{value}"'


def _wrong_type(sheet: Sheet, name: str, column: pa.ChunkedArray, needed: str) -> None:
    where, found = f"{sheet.shown}, column {name}", f"type {column.type}"
    sheet.faults.append(Fault(where, found, f"must hold {needed}", "convert the column"))
