"""Dated OHLC bars, every cell and every bar checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from job.data.tables.cells import Dates, Floats, parse_dates, positive_numbers
from job.data.tables.table import Table, read_table
from job.errors import Fault, InputError
from job.spec import OhlcWindows

PRICES = ("open", "high", "low", "close")


@dataclass(frozen=True)
class Bars:
    """N bars, oldest first."""

    dates: Dates
    """[N] dates, strictly increasing."""
    open: Floats
    """[N] positive prices; open and close lie within low … high."""
    high: Floats
    low: Floats
    close: Floats

    def __len__(self) -> int:
        return len(self.dates)


def read_bars(path: Path, data: OhlcWindows) -> Bars:
    """Read and check the bars at `path`: CSV, CSV.gz or Parquet.

    Raises InputError with every fault: of the file or its columns, or else of all cells, of the
    dates' order and of the prices within a bar.
    """
    return bars_of(read_table(path, data.path), data)


def bars_of(table: Table, data: OhlcWindows) -> Bars:
    """The bars of a table, checked in the same way; raises InputError."""
    if fault := _column_fault(table):
        raise InputError([*table.faults, fault])
    dates = parse_dates(table, "date", data.date_format)
    prices = positive_numbers(table, PRICES)
    _check_order(table, dates)
    _check_prices(table, prices)
    if table.faults:
        raise InputError(table.faults)
    return Bars(dates, **prices)


def _column_fault(table: Table) -> Fault | None:
    """The fault of a table that has not each of the needed columns once."""
    names, needed = table.plain_names(), ("date", *PRICES)
    bad = [name for name in needed if names.count(name) != 1]
    if not bad:
        return None
    found = f"the columns {', '.join(map(str.strip, table.names))}"
    rule = f"there must be one column of each name: {', '.join(needed)}"
    twice = [name for name in bad if name in names]
    remedy = f"rename or add {', '.join(bad)}"
    if twice:
        remedy = f"keep one column {' and one '.join(twice)}"
    elif len(bad) == len(needed) and any(name[:1].isdigit() for name in names):
        remedy = "write the names as the first line"
    return Fault(table.source, found, rule, remedy)


def _check_order(table: Table, dates: Dates) -> None:
    """Add faults for dates that repeat one above, and for dates before one above."""
    known = np.flatnonzero(~np.isnat(dates))
    if not len(known):
        return
    _, first, inverse = np.unique(dates[known], return_index=True, return_inverse=True)
    original = np.arange(len(dates))
    original[known] = known[first[inverse]]
    repeated = original != np.arange(len(dates))
    moments = dates[known].astype(np.int64)
    remedy = "sort the file by date, oldest first"
    if len(known) > 2 and (np.diff(moments) < 0).all():
        found = f"dates from {_day(dates[known[0]])} back to {_day(dates[known[-1]])}"
        where = f"{table.source}, column date"
        table.faults.append(Fault(where, found, "dates must ascend", remedy))
        return
    early = np.zeros(len(dates), dtype=bool)
    early[known] = moments < np.maximum.accumulate(moments)

    def explain_repeat(i: int) -> tuple[str, str, str]:
        rule = f"must not repeat the date of row {table.rows[original[i]]}"
        return _day(dates[i]), rule, "remove one of the two"

    table.add_faults("date", repeated, explain_repeat)
    rows = np.flatnonzero(early & ~repeated)
    if len(rows):
        more = f", and {len(rows) - 1} more below a later one" if len(rows) > 1 else ""
        found = _day(dates[rows[0]]) + more
        table.faults.append(table.fault_at(rows[0], "date", found, "dates must ascend", remedy))


def _day(moment: np.datetime64) -> str:
    """A date, with its time of day unless that is midnight."""
    return str(moment.astype("datetime64[s]")).removesuffix("T00:00:00")


def _check_prices(table: Table, prices: dict[str, Floats]) -> None:
    """Add faults for highs below the low, or else opens and closes outside of low … high."""
    high, low = prices["high"], prices["low"]
    _check_bound(table, prices, "high", "low", high < low)
    for name in ("open", "close"):
        price = prices[name]
        _check_bound(table, prices, name, "high", (price > high) & (high >= low))
        _check_bound(table, prices, name, "low", (price < low) & (high >= low))


def _check_bound(
    table: Table, prices: dict[str, Floats], name: str, bound: str, bad: NDArray[np.bool_]
) -> None:
    side = "above" if bound == "high" else "below"

    def explain(i: int) -> tuple[str, str, str]:
        rule = f"the {name} must not be {side} the {bound}, {prices[bound][i]:.10g}"
        return f"{prices[name][i]:.10g}", rule, "correct the prices"

    table.add_faults(name, bad, explain)
