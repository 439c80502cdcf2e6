"""Bars from a file: the values that are read, and the line of each fault."""

from __future__ import annotations

import gzip
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from job.data.bars import read_bars
from job.errors import InputError
from job.spec import OhlcWindows

NASDAQ = Path(__file__).parents[2] / "docker" / "nasdaq.csv.gz"
HEADER = "Date,Open,High,Low,Close"


def spec(**changes: Any) -> OhlcWindows:
    return OhlcWindows(kind="ohlc_windows", **{"path": "bars.csv", **changes})


def test_shipped_bars() -> None:
    """The shipped file holds 5 031 valid bars, 1999 to 2018."""
    bars = read_bars(NASDAQ, spec(path="nasdaq.csv.gz", date_format="%m/%d/%Y"))
    assert len(bars) == 5031
    assert str(bars.dates[0])[:10] == "1999-01-04"
    assert str(bars.dates[-1])[:10] == "2018-12-31"
    assert bars.close[0] == 2208.050049


def test_formats_agree(tmp_path: Path) -> None:
    """CSV, CSV.gz and Parquet of the same bars are read alike, names in any case, blanks around."""
    rows = ["2024-01-02, 1.0 ,2e0,.5,1.5", "2024-01-03,1,2,1,2", "2024-01-04,2,2,2,2"]
    text = "\n".join([" DATE,open , High,LOW,Close", *rows, "", ""])
    (tmp_path / "bars.csv").write_text(text)
    (tmp_path / "crlf.csv").write_text("\ufeff" + text.replace("\n", "\r\n"), newline="")
    (tmp_path / "bars.csv.gz").write_bytes(gzip.compress(text.encode()))
    columns = {
        "Date": np.array(["2024-01-02", "2024-01-03", "2024-01-04"], dtype="datetime64[D]"),
        "Open": pa.array([1.0, 1, 2], pa.float32()),
        "High": pa.array([2, 2, 2], pa.int64()),
        "Low": [0.5, 1, 2],
        "Close": ["1.5", "2", "2"],
        "Note": ["a", "b", "c"],
    }
    pq.write_table(pa.table(columns), tmp_path / "bars.parquet")
    for name in ("bars.csv", "crlf.csv", "bars.csv.gz", "bars.parquet"):
        bars = read_bars(tmp_path / name, spec(path=name))
        assert bars.dates.astype("datetime64[D]").astype(str).tolist() == [
            "2024-01-02",
            "2024-01-03",
            "2024-01-04",
        ]
        prices = [bars.open, bars.high, bars.low, bars.close]
        np.testing.assert_array_equal(prices, [[1, 1, 2], [2, 2, 2], [0.5, 1, 2], [1.5, 2, 2]])


def test_offsets_become_utc(tmp_path: Path) -> None:
    """Moments with an offset are ordered by UTC, not by the clock they show."""
    rows = ["2024-01-02T10:00:00+02:00,1,1,1,1", "2024-01-02T09:00:00Z,1,1,1,1"]
    (tmp_path / "bars.csv").write_text("\n".join([HEADER, *rows]))
    bars = read_bars(tmp_path / "bars.csv", spec())
    assert bars.dates.astype(str).tolist() == [
        "2024-01-02T08:00:00.000000",
        "2024-01-02T09:00:00.000000",
    ]


GOOD = ["2024-01-02,10,12,9,11", "2024-01-03,11,12,9,10"]


@pytest.mark.parametrize(
    ("row", "where", "part"),
    [
        ("2024-01-04,11,9,12,10", "row 4, column high", "found 9; the high must not be below"),
        ("2024-01-04,13,12,9,10", "row 4, column open", "found 13; the open must not be above"),
        ("2024-01-04,8,12,9,10", "row 4, column open", "found 8; the open must not be below"),
        ("2024-01-04,10,12,9,13", "row 4, column close", "found 13; the close must not be above"),
        ("2024-01-04,10,12,9,8", "row 4, column close", "must not be below the low, 9"),
        ("2024-01-04,0,12,9,10", "row 4, column open", '"0"; must be a positive number'),
        ("2024-01-04,10,12,-9,10", "row 4, column low", '"-9"; must be a positive number'),
        ("2024-01-03,10,12,9,10", "row 4, column date", "must not repeat the date of row 3"),
        ("2024-01-01,10,12,9,10", "row 4, column date", "found 2024-01-01; dates must ascend"),
        ("2024-02-30,10,12,9,10", "row 4, column date", '"2024-02-30"; must be a date in ISO'),
        ("1/4/2024,10,12,9,10", "row 4, column date", "set data.date_format"),
        (",10,12,9,10", "row 4, column date", "found an empty cell"),
        ("2024-01-04,ten,12,9,10", "row 4, column open", '"ten"; must be a number'),
        ("2024-01-04,10,12,9, ", "row 4, column close", "an empty cell; must be a number"),
        (
            "2024-01-04,10,NaN,9,10",
            "row 4, column high",
            'a mark for a missing value, "NaN"',
        ),
        ("2024-01-04,10,inf,9,10", "row 4, column high", '"inf"; must be a number'),
        ("2024-01-04,10,1e999,9,10", "row 4, column high", '"1e999"; must be a number'),
        ("2024-01-04,10,12,9", "row 4", "found 4 cells; the header has 5"),
        ("2024-01-04,10,12,9,10,7", "row 4", "found 6 cells; the header has 5"),
    ],
)
def test_bad_row(tmp_path: Path, row: str, where: str, part: str) -> None:
    """A line names the file, the row as an editor counts it, the column, and what is wrong."""
    (tmp_path / "bars.csv").write_text("\n".join([HEADER, *GOOD, row]))
    with pytest.raises(InputError) as error:
        read_bars(tmp_path / "bars.csv", spec())
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"bars.csv, {where}: found ")
    assert part in line


def test_blank_line_counts(tmp_path: Path) -> None:
    """A blank line is one fault, and the rows after it keep their numbers."""
    text = "\n".join([HEADER, GOOD[0], "", "2024-01-05,10,12,9,99", "x", "2024-01-06,a,1,1,1"])
    (tmp_path / "bars.csv").write_text(text)
    with pytest.raises(InputError) as error:
        read_bars(tmp_path / "bars.csv", spec())
    found = [fault.where for fault in error.value.faults]
    assert found == [
        "bars.csv, row 5",
        "bars.csv, row 3",
        "bars.csv, row 6, column open",
        "bars.csv, row 4, column close",
    ]


@pytest.mark.parametrize("where", [3, 70_000])
def test_row_number_far_down(tmp_path: Path, where: int) -> None:
    """Rows are counted right beyond the reader's first block, with a ragged row before them."""
    days = np.arange(80_000).astype("datetime64[D]").astype(str)
    lines = [HEADER, *(f"{day},10,12,9,11" for day in days)]
    lines[where - 1] = "ragged"
    lines[75_000 - 1] = f"{days[74_998]},10,12,9,13"
    (tmp_path / "bars.csv").write_text("\n".join(lines))
    with pytest.raises(InputError) as error:
        read_bars(tmp_path / "bars.csv", spec())
    found = [fault.where for fault in error.value.faults]
    assert found == [f"bars.csv, row {where}", "bars.csv, row 75000, column close"]


def test_many_faults_are_counted(tmp_path: Path) -> None:
    """Ten faults of one rule have a line each, the others are counted; so for each rule."""
    rows = [f"2024-01-{day:02},10,12,9,{13 if day < 20 else 8}" for day in range(1, 22)]
    (tmp_path / "bars.csv").write_text("\n".join([HEADER, *rows]))
    with pytest.raises(InputError) as error:
        read_bars(tmp_path / "bars.csv", spec())
    lines = str(error.value).splitlines()
    assert len(lines) == 10 + 1 + 2
    assert lines[10].startswith("bars.csv, column close: found these and 9 more;")


def test_parquet_rows_count_from_0(tmp_path: Path) -> None:
    """In Parquet a row is named by its index; null and NaN are faults, and so is a wrong type."""
    day = np.arange(3).astype("datetime64[D]")
    columns = {"date": day, "open": [1.0, None, 1], "high": [1.0, 1, np.nan], "low": [True] * 3}
    pq.write_table(pa.table({**columns, "close": [1.0, 1, 1]}), tmp_path / "bars.parquet")
    with pytest.raises(InputError) as error:
        read_bars(tmp_path / "bars.parquet", spec(path="bars.parquet"))
    lines = str(error.value).splitlines()
    assert lines[0].startswith("bars.parquet, row 1, column open: found an empty cell; must be a")
    assert lines[1].startswith('bars.parquet, row 2, column high: found "nan"; must be a number')
    assert lines[2].startswith("bars.parquet, column low: found type bool; must hold numbers")
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("bars.csv", None, "bars.csv: found no file at "),
        ("bars.csv", b"", "bars.csv: found an empty file"),
        ("bars.csv", b"\xff\xfe\x00,1\n", "bars.csv: found text in UTF-16"),
        ("bars.csv.gz", b"Date,Open\n", "bars.csv.gz: found plain text; must be"),
        ("bars.parquet", b"Date,Open\n" * 9, "bars.parquet: found plain text; must be"),
        ("bars.xls", b"x", '$.data.path: found "bars.xls"; must end in .csv'),
        ("bars.csv", b"Date;Open;High\n", "bars.csv: found cells separated by semicolons;"),
        ("bars.csv", b"Date,Open,High,Low\n", "Low; there must be one column of each name"),
        ("bars.csv", b"Date,Open,High,Low,Close,close\n", "close; keep one column close"),
    ],
)
def test_bad_file(tmp_path: Path, name: str, content: bytes | None, part: str) -> None:
    """A file of another kind, or without a column, gives a line with its name and its content."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        read_bars(tmp_path / name, spec(path=name))
    assert part in str(error.value)


DAYS = [f"2024-01-{day:02}" for day in range(1, 21)]
ISO = [f"{day},10,12,9,11" for day in DAYS]
US = [f"01/{day:02}/2024,10,12,9,11" for day in range(1, 21)]


def csv(rows: list[str], header: str = HEADER) -> bytes:
    return "\n".join([header, *rows]).encode()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (csv([f"{day};1,5;1,5;1,5;1,5" for day in DAYS], "Date;Open;High;Low;Close"), "semicolons"),
        (csv([f"{day}\t1\t1\t1\t1" for day in DAYS], "Date\tOpen\tHigh\tLow\tClose"), "tabs; "),
        (
            csv([f'{day},"1,5","1,5","1,234","1,5"' for day in DAYS]),
            'bars.csv, row 2, column open: found a decimal comma, "1,5", in 80 cells; must be a ',
        ),
        (
            csv([f"{day},1,5,1,5,1,5,1,5" for day in DAYS]),
            "row 2: found 9 cells, and the like",
        ),
        (
            csv([f'{day},"1,234.5","1,234.5","1,234.5","1,234.5"' for day in DAYS]),
            'row 2, column open: found a thousands mark, "1,234.5", in 80 cells',
        ),
        (
            csv([*ISO[:5], f"{DAYS[5]},N/A,N/A,N/A,N/A", *ISO[6:]]),
            'row 7, column open: found a mark for a missing value, "N/A", in 4 cells',
        ),
        (csv([f"{day},$1,$1,$1,$1" for day in DAYS]), 'a currency or percent sign, "$1", in 80'),
        (
            csv([f"{day}T10:00{'Z' if i % 2 else ''},1,1,1,1" for i, day in enumerate(DAYS)]),
            '"2024-01-01T10:00" without a UTC offset, as in 10 rows; row 3 has one, "2024',
        ),
        (
            csv(US),
            'column date: found "01/01/2024", and the like in all 20 rows; must',
        ),
        (csv(US), 'set data.date_format to "%m/%d/%Y"'),
        (csv(US[:12]), 'set data.date_format to "%m/%d/%Y" or "%d/%m/%Y"'),
        (csv([f"{1700000000 + i},1,1,1,1" for i in range(20)]), "what looks like Unix time"),
        (csv(ISO[::-1]), "found dates from 2024-01-20 back to 2024-01-01; dates must ascend; sort"),
        (
            csv(ISO[10:] + ISO[:10]),
            "row 12, column date: found 2024-01-01, and 9 more below",
        ),
        (
            csv([f"{day},10,9,12,11" for day in DAYS]),
            "column high: found 9, and the like in",
        ),
        (csv([f"{day},x,12,9,11" for day in DAYS]), 'found "x", and the like in all 20 rows; must'),
        (csv(ISO[1:], ISO[0]), "write the names as the first line"),
        (csv(ISO, "Time,Price,High,Low,Last"), "rename or add date, open, close"),
        (csv([f"{i},{row}" for i, row in enumerate(ISO)]), "give every column one name and one ce"),
        (csv([ISO[0], '2024-01-02,"10,12,9,11', *ISO[2:]]), "row 3: found 2 cells; the header has"),
        (
            csv(ISO) + b"\n2024-02-01,10,12,9,\xe9",
            "row 22: found byte 0xe9, which is no UTF",
        ),
        (HEADER.encode(), "bars.csv: found one line; must hold a header and rows"),
        (b"PAR1" + bytes(99), "bars.csv: found a Parquet file"),
        (gzip.compress(csv(ISO)), "bars.csv: found gzip data"),
        (b"PK\x03\x04" + bytes(99), "bars.csv: found a zip archive, which Excel files are too"),
        (b"<!DOCTYPE html>\n<html>", "bars.csv: found a page in HTML or XML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "bars.csv: found a pointer of Git LFS"),
        (csv(ISO) + bytes(9), "bars.csv: found damaged or cut off data"),
    ],
)
def test_one_fault_for_one_cause(tmp_path: Path, content: bytes, line: str) -> None:
    """A file with one thing wrong throughout has one line, in however many cells it is wrong."""
    (tmp_path / "bars.csv").write_bytes(content)
    with pytest.raises(InputError) as error:
        read_bars(tmp_path / "bars.csv", spec())
    (fault,) = error.value.faults
    assert line in str(fault)


def test_a_format_that_the_file_does_not_need(tmp_path: Path) -> None:
    """ISO dates under a date_format: the remedy is to remove the format."""
    (tmp_path / "bars.csv").write_bytes(csv(ISO))
    with pytest.raises(InputError) as error:
        read_bars(tmp_path / "bars.csv", spec(date_format="%m/%d/%Y"))
    (fault,) = error.value.faults
    assert fault.remedy == "remove data.date_format to read ISO 8601"


@pytest.mark.parametrize(
    "dates",
    [
        pa.array(DAYS).dictionary_encode(),
        pa.array(np.array(DAYS, "datetime64[D]")),
        pa.array(np.array(DAYS, "datetime64[D]")).dictionary_encode(),
        pa.array(np.array(DAYS, "datetime64[ns]"), pa.timestamp("ns", "UTC")),
        pa.array(np.array(DAYS, "datetime64[ms]")).cast(pa.date64()),
        pa.array(DAYS, pa.large_string()),
    ],
    ids=lambda array: str(array.type),
)
def test_dates_in_parquet(tmp_path: Path, dates: pa.Array) -> None:
    """Dates are read from texts, dates and timestamps, dictionary-encoded or not."""
    prices = {name: np.ones(20) for name in ("open", "high", "low", "close")}
    pq.write_table(pa.table({"date": dates, **prices}), tmp_path / "bars.parquet")
    bars = read_bars(tmp_path / "bars.parquet", spec(path="bars.parquet"))
    assert bars.dates.astype("datetime64[D]").astype(str).tolist() == DAYS


@pytest.mark.parametrize(
    "prices",
    [
        pa.array([Decimal("10.25")] * 20),
        pa.array([10.25] * 20).dictionary_encode(),
        pa.array(["10.25"] * 20).dictionary_encode(),
        pa.array([10.25] * 20, pa.float16()),
    ],
    ids=lambda array: str(array.type),
)
def test_prices_in_parquet(tmp_path: Path, prices: pa.Array) -> None:
    """Prices are read from decimals, small floats and dictionary-encoded columns."""
    columns = dict.fromkeys(("open", "high", "low", "close"), prices)
    pq.write_table(pa.table({"date": DAYS, **columns}), tmp_path / "bars.parquet")
    bars = read_bars(tmp_path / "bars.parquet", spec(path="bars.parquet"))
    assert set(bars.close) == {10.25}


def test_special_files(tmp_path: Path) -> None:
    """A FIFO is refused without waiting for a writer, and a device is not read."""
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(InputError, match=r"bars\.csv: found a FIFO or pipe; must be a file"):
        read_bars(tmp_path / "pipe.csv", spec())
    with pytest.raises(InputError, match=r"bars\.csv: found a device; must be a file"):
        read_bars(Path("/dev/zero"), spec())


def test_directory(tmp_path: Path) -> None:
    """A directory is no file."""
    with pytest.raises(InputError, match=r"bars\.csv: found a directory"):
        read_bars(tmp_path, spec())


def test_bad_date_format(tmp_path: Path) -> None:
    """A format that Python cannot read is one fault of the spec, and none of the rows."""
    (tmp_path / "bars.csv").write_text("\n".join([HEADER, *GOOD]))
    with pytest.raises(InputError) as error:
        read_bars(tmp_path / "bars.csv", spec(date_format="%Q"))
    assert [fault.where for fault in error.value.faults] == ["$.data.date_format"]
