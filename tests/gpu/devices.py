"""The devices that tests run on."""

from __future__ import annotations

import pytest
import torch

NO_CUDA = "torch finds no CUDA device here"
CPU = torch.device("cpu")


def on_cuda(*values: object, id: str | None = None) -> object:  # noqa: A002 - pytest's name
    """A case of a test that needs CUDA, and says so where there is none."""
    skipped = pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_CUDA)
    return pytest.param(*values, id=id, marks=[pytest.mark.gpu, skipped])
