"""The option that a user probably meant by a word that is none of the options."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

SYNONYMS = {
    "adam": "adamw",
    "bars": "ohlc_windows",
    "batch": "batch_size",
    "bcewithlogits": "binary_cross_entropy",
    "bfloat16": "bf16",
    "binarycrossentropy": "binary_cross_entropy",
    "categoricalcrossentropy": "cross_entropy",
    "coral": "ordinal",
    "corn": "ordinal",
    "csv": "arrays",
    "equal": "fixed",
    "float16": "fp16",
    "float32": "fp32",
    "focal": "cross_entropy",
    "gaussian": "gaussian_nll",
    "gpu": "cuda",
    "gradnorm": "gradient_norm",
    "half": "fp16",
    "kendall": "uncertainty",
    "l1": "mae",
    "l2": "mse",
    "learningrate": "lr",
    "labelsmoothing": "cross_entropy",
    "linear": "identity",
    "log": "binary_cross_entropy",
    "logistic": "binary_cross_entropy",
    "meanabsoluteerror": "mae",
    "meansquarederror": "mse",
    "nll": "cross_entropy",
    "npz": "arrays",
    "normal": "gaussian_nll",
    "numpy": "arrays",
    "pairwise": "ranking",
    "parquet": "arrays",
    "pinball": "quantile",
    "poisson": "poisson_nll",
    "ranknet": "ranking",
    "smoothl1": "huber",
    "softmax": "cross_entropy",
    "sparsecategoricalcrossentropy": "cross_entropy",
    "sum": "fixed",
    "table": "arrays",
    "zscore": "standardize",
    **dict.fromkeys(("cagrad", "imtlg", "mgda", "nashmtl", "pcgrad", "upgrad"), "torchjd"),
}
"""Words that other libraries use, without underscores and a `loss` at the end, and ours."""


def nearest(word: str, options: Sequence[str]) -> str | None:
    """The option that a word is a synonym, an abbreviation or a misspelling of, if any."""
    plain = _plain(word[:100])
    by_plain = {_plain(option): option for option in options}
    if plain in by_plain:
        return by_plain[plain]
    if SYNONYMS.get(plain) in options:
        return SYNONYMS[plain]
    for option in options:
        parts = option.split("_")
        if len(parts) > 1 and plain == "".join(part[0] for part in parts):
            return option
    # Words of a few letters resemble each other by chance.
    cutoff = 0.6 if len(plain) > 4 else 0.7
    close = difflib.get_close_matches(plain, by_plain, n=1, cutoff=cutoff)
    return by_plain[close[0]] if close else None


def _plain(word: str) -> str:
    """A word's letters and digits in lower case, without `loss` at the end."""
    letters = re.sub(r"[^a-z0-9]", "", word.lower())
    return letters.removesuffix("loss") or letters
