"""Make rows.npz, the sequences of rows.json, from the digits that scikit-learn ships.

    python make_rows.py

An image of 8 × 8 pixels becomes a sequence of its 8 rows from the top. The two targets of each row
are computed from the pixels: the column where the row has the middle of its ink, and the ink in all
rows below it.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits


def rows() -> dict[str, np.ndarray]:
    """The arrays of the example, 1,797 sequences in the order of the data set."""
    digits = load_digits()
    ink = digits.images  # [N, 8 rows, 8 columns], 0 to 16
    of_rows = ink.sum(axis=2)
    below = of_rows[:, ::-1].cumsum(axis=1)[:, ::-1] - of_rows
    return {
        "rows": ink.astype(np.uint8),
        "digit": digits.target.astype(np.uint8),
        "middle": (ink @ np.arange(8) / of_rows).astype(np.float32),
        "below": below.astype(np.uint16),
    }


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("rows.npz"), **rows())
