"""A table that is read some rows at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from job.data.chunks import tables
from job.errors import InputError


def test_no_read_goes_on_after_a_fault(tmp_path: Path) -> None:
    """pyarrow's thread, which reads ahead, holds a function of Python: it must be done with it."""
    path = tmp_path / "rows.csv"
    lines = ["a,b", *["1,2"] * 50, "3", *["1,2"] * 50]
    path.write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "BLOCK", 64)
        with pytest.raises(InputError, match=r"rows\.csv, row 52: found 1 cell"):
            list(tables.table_chunks(path, "rows.csv"))
    (reader,) = tables._newest
    with pytest.raises(StopIteration):
        reader.read_next_batch()
