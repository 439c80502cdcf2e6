"""Numbers and dates from the cells of a table; one fault for one cause."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from job.data.tables.table import Table, is_text
from job.errors import Fault

Floats = NDArray[np.float64]
Dates = NDArray[np.datetime64]

# --- numbers ----------------------------------------------------------------------------------

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_COMMA, _THOUSANDS, _SIGN = "a decimal comma", "a thousands mark", "a currency or percent sign"
GAP = "a mark for a missing value"
_NOTATIONS = {
    _THOUSANDS: re.compile(r"[+-]?[0-9]{1,3}([,'’_\s][0-9]{3})+(\.[0-9]*)?"),
    _COMMA: re.compile(r"[+-]?([0-9]+|[0-9]{1,3}([.'’\s][0-9]{3})+),[0-9]+"),
    GAP: re.compile(r"(?i)#?n/?a|nan|null|none|nil|missing|[-–—]+|[.?*]"),
    _SIGN: re.compile(r"[$€£¥%]\s*[+-]?[0-9.,]+|[+-]?[0-9.,]+\s*[$€£¥%]"),
}
"""What may stand in a cell in place of a plain number, and its forms."""


class OddCell(NamedTuple):
    """A cell with a number in another notation, or a mark for a missing one."""

    row: int
    column: str
    text: str
    notation: str


def positive_numbers(table: Table, names: Sequence[str]) -> dict[str, Floats]:
    """The numbers [N] of each column; NaN, and a fault, for a cell that is no positive number.

    Another notation of numbers is one fault, in however many cells and columns it is used.
    """
    found = {name: numbers(table.column(name)) for name in names}
    odd = [cell for name in names for cell in odd_cells(table.column(name), name, found[name])]
    add_notation_faults(table, odd)
    for name, values in found.items():
        if _holds_numbers(table.column(name)):
            _add_cell_faults(table, name, values, [c.row for c in odd if c.column == name])
        else:
            _add_type_fault(table, name, "numbers")
    return {name: np.where(values > 0, values, np.nan) for name, values in found.items()}


def _holds_numbers(column: pa.ChunkedArray) -> bool:
    """True if a column's type is one of numbers or of text."""
    types, kind = pa.types, column.type
    numeric = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    return bool(numeric or is_text(column))


def numbers(column: pa.ChunkedArray) -> Floats:
    """The column's numbers [N]; NaN for a cell that holds none."""
    if not _holds_numbers(column):
        return np.full(len(column), np.nan)
    if is_text(column):
        trimmed = pc.utf8_trim_whitespace(column)
        column = pc.if_else(pc.match_substring_regex(trimmed, _NUMBER), trimmed, None)
    return np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy())


def odd_cells(column: pa.ChunkedArray, name: str, values: Floats) -> list[OddCell]:
    """The cells of a text column that hold one of _NOTATIONS in place of a number."""
    cells = []
    for i in map(int, np.flatnonzero(np.isnan(values))) if is_text(column) else ():
        text = (column[i].as_py() or "").strip()
        notation = next((n for n, form in _NOTATIONS.items() if form.fullmatch(text)), None)
        if notation:
            cells.append(OddCell(i, name, text, notation))
    return cells


def add_notation_faults(table: Table, odd: Sequence[OddCell]) -> None:
    """Add one fault for each notation that is used, at its first cell."""
    by_notation: dict[str, list[OddCell]] = {}
    for cell in odd:
        by_notation.setdefault(cell.notation, []).append(cell)
    if _COMMA in by_notation:  # beside 12,5 a comma in 1,234 is no thousands mark either
        by_notation[_COMMA] += by_notation.pop(_THOUSANDS, [])
    for notation, cells in by_notation.items():
        row, column, text, _ = cells[0]
        found = f'{notation}, "{text}"' + (f", in {len(cells)} cells" if len(cells) > 1 else "")
        rule, remedy = "must be a number like 1234.5", "write all numbers like that"
        if notation == GAP:
            remedy = "fill in the prices, or leave these bars out"
        table.faults.append(table.fault_at(row, column, found, rule, remedy))


def _add_cell_faults(table: Table, name: str, values: Floats, explained: list[int]) -> None:
    """Add the faults of the other cells that hold no number, or one that is not positive."""
    column = table.column(name)
    wrong = ~np.isfinite(values)
    low = (values <= 0) & ~wrong
    wrong[explained] = False
    remedy = "correct it"
    table.add_faults(name, wrong, lambda i: (quoted(column, i), "must be a number", remedy))
    table.add_faults(name, low, lambda i: (quoted(column, i), "must be a positive number", remedy))


# --- dates ------------------------------------------------------------------------------------

_FORMATS = (
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%d.%m.%Y",
    "%m-%d-%Y",
    "%d-%m-%Y",
    "%Y/%m/%d",
    "%m/%d/%y",
    "%d/%m/%y",
    "%d-%b-%Y",
    "%d-%b-%y",
    "%b %d, %Y",
    "%d %b %Y",
    "%m/%d/%Y %H:%M",
    "%d/%m/%Y %H:%M",
    "%d.%m.%Y %H:%M",
    "%Y%m%d %H:%M:%S",
)
"""Formats that are tried to propose one."""


def parse_dates(table: Table, name: str, date_format: str | None) -> Dates:
    """The column's dates [N], in UTC if they have an offset; NaT, and a fault, for a bad cell.

    date_format: of strptime; None: ISO 8601.
    """
    column = table.column(name)
    none = np.full(len(column), "NaT", dtype="datetime64[us]")
    if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
        values = np.asarray(pc.cast(column, pa.timestamp("us"), safe=False).to_numpy())
        texts: list[str] = []
    elif not is_text(column):
        _add_type_fault(table, name, "dates")
        return none
    elif fault := _format_fault(date_format):
        table.faults.append(fault)
        return none
    else:
        texts = [(text or "").strip() for text in column.to_pylist()]
        dates = [_date(text, date_format) for text in texts]
        if _add_offset_fault(table, name, texts, dates):
            return none
        utc = [d.astimezone(UTC).replace(tzinfo=None) if d and d.tzinfo else d for d in dates]
        values = np.array(utc, dtype="datetime64[us]")
    rule = f"must be a date {f'of the form {date_format}' if date_format else 'in ISO 8601'}"
    bad = np.flatnonzero(np.isnat(values))
    remedy = _date_remedy([texts[i] for i in bad] if texts else [], date_format)
    table.add_faults(name, np.isnat(values), lambda i: (quoted(column, i), rule, remedy))
    return values


def _date(text: str, date_format: str | None) -> datetime | None:
    """By Python, as pyarrow takes February 30 for March 1."""
    try:
        date = datetime.strptime(text, date_format) if date_format else datetime.fromisoformat(text)
        if date.tzinfo:
            date.astimezone(UTC)  # may overflow
        return date
    except (ValueError, OverflowError):
        return None


def are_dates(texts: Sequence[str]) -> bool:
    """True if there are texts, all of them dates in one format."""
    formats = [f for f in (None, *_FORMATS) if texts and _date(texts[0], f)]
    return any(all(_date(text, f) for text in texts) for f in formats)


def _add_offset_fault(
    table: Table, name: str, texts: list[str], dates: Sequence[datetime | None]
) -> bool:
    """Add one fault if some dates have a UTC offset and others have none; True if it did."""
    zoned = [i for i, date in enumerate(dates) if date and date.tzinfo]
    plain = [i for i, date in enumerate(dates) if date and not date.tzinfo]
    if not zoned or not plain:
        return False
    found = f'"{texts[plain[0]]}" without a UTC offset, as in {len(plain)} rows'
    rule = f'row {table.rows[zoned[0]]} has one, "{texts[zoned[0]]}", as have {len(zoned)} rows'
    remedy = "give all dates an offset, or none"
    table.faults.append(table.fault_at(plain[0], name, found, rule, remedy))
    return True


def _date_remedy(bad: Sequence[str], date_format: str | None) -> str:
    """The remedy for cells that are no dates: a format that fits them all, if there is one."""
    written = [text for text in bad if text]
    if not written:
        return "write the date"
    if date_format and all(_date(text, None) for text in written):
        return "remove data.date_format to read ISO 8601"
    if all(re.fullmatch("[0-9]{10}|[0-9]{13}", text) for text in written):
        return "write dates in place of what looks like Unix time"
    fitting = [f'"{f}"' for f in _FORMATS if all(_date(text, f) for text in written)]
    if fitting:
        return f"set data.date_format to {' or '.join(fitting)}"
    return "correct it, or set data.date_format to the file's, e.g. %m/%d/%Y"


def _format_fault(date_format: str | None) -> Fault | None:
    """A fault unless Python can read what it writes in this format."""
    try:
        if date_format:
            datetime.strptime(datetime(2000, 1, 2).strftime(date_format), date_format)
    except (ValueError, re.error):
        found, rule = f'"{date_format}"', "must be a strptime format"
        return Fault("$.data.date_format", found, rule, "write it like %m/%d/%Y or %Y-%m-%d %H:%M")
    return None


def quoted(column: pa.ChunkedArray, row: int) -> str:
    """A cell in quotes."""
    value = column[row].as_py()
    return "an empty cell" if value is None or not str(value).strip() else f'"{value}"'


def _add_type_fault(table: Table, name: str, needed: str) -> None:
    where, found = f"{table.source}, column {name}", f"type {table.column(name).type}"
    table.faults.append(Fault(where, found, f"must hold {needed}", "convert the column"))
