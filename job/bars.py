"""Dated OHLC bars, every cell and every bar checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from job.cells import Dates, Floats, dates, positive
from job.faults import Fault, InputError
from job.sheet import Sheet, read_sheet
from job.spec import OhlcWindows

PRICES = ("open", "high", "low", "close")


@dataclass(frozen=True)
class Bars:
    """N bars, oldest first."""

    dates: Dates
    """[N], strictly increasing."""
    open: Floats
    """[N], positive and within low … high, as is close."""
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
    sheet = read_sheet(path, data.path)
    if missing := sheet.missing(("date", *PRICES)):
        found = f"the columns {', '.join(map(str.strip, sheet.names))}"
        for name in missing:
            where, rule = f"{data.path}, column {name}", f"there must be one column {name}"
            sheet.faults.append(Fault(where, found, rule, "rename or add the column"))
        raise InputError(sheet.faults)
    when = dates(sheet, "date", data.date_format)
    prices = {name: positive(sheet, name) for name in PRICES}
    _check_order(sheet, when)
    _check_prices(sheet, prices)
    if sheet.faults:
        raise InputError(sheet.faults)
    return Bars(when, **prices)


def _check_order(sheet: Sheet, when: Dates) -> None:
    """Blame dates that repeat one above, and dates before one above."""
    known = np.flatnonzero(~np.isnat(when))
    if not len(known):
        return
    _, first, inverse = np.unique(when[known], return_index=True, return_inverse=True)
    original = np.arange(len(when))
    original[known] = known[first[inverse]]
    repeated = original != np.arange(len(when))
    moments = when[known].astype(np.int64)
    early = np.zeros(len(when), dtype=bool)
    early[known] = moments < np.maximum.accumulate(moments)

    def tell(row: int, rule: str, remedy: str) -> tuple[str, str, str]:
        return str(when[row].astype("datetime64[s]")).removesuffix("T00:00:00"), rule, remedy

    def repeats(row: int) -> tuple[str, str, str]:
        other = sheet.rows[original[row]]
        return tell(row, f"must not repeat the date of row {other}", "remove one of the two")

    sheet.blame("date", repeated, repeats)
    sheet.blame(
        "date",
        early & ~repeated,
        lambda i: tell(i, "dates must ascend", "sort the file by date, oldest first"),
    )


def _check_prices(sheet: Sheet, prices: dict[str, Floats]) -> None:
    """Blame highs below the low, or else opens and closes outside of low … high."""
    high, low = prices["high"], prices["low"]
    _check_bound(sheet, prices, "high", "low", high < low)
    for name in ("open", "close"):
        price = prices[name]
        _check_bound(sheet, prices, name, "high", (price > high) & (high >= low))
        _check_bound(sheet, prices, name, "low", (price < low) & (high >= low))


def _check_bound(
    sheet: Sheet, prices: dict[str, Floats], name: str, bound: str, bad: NDArray[np.bool_]
) -> None:
    side = "above" if bound == "high" else "below"

    def tell(row: int) -> tuple[str, str, str]:
        rule = f"the {name} must not be {side} the {bound}, {prices[bound][row]:.10g}"
        return f"{prices[name][row]:.10g}", rule, "correct the bar"

    sheet.blame(name, bad, tell)
