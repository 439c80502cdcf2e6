"""A run with `train.compile`, by PyTorch's real compiler, in real processes."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.runs import SPEC, Run, Undisturbed, assert_undisturbed
from tests.support.tiny_job import SMALL, write
from tests.support.warm_process import Nursery

EDITS = SPEC | {
    "train.compile": True,
    "checkpoint.every_steps": 4,
    "model": {"kind": "mlp", "hidden": [8], "projection": 4},
    "tasks": SMALL["tasks"][:2],
}
"""A checkpoint before the epoch's last batch, which is smaller than the others."""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_run_ends_bit_identical(nursery: Nursery, tmp_path: Path) -> None:
    """Once killed it goes on bit by bit; checkpoints name no compiler, and the start has told what
    compiling took."""
    spec = write(tmp_path, EDITS)
    whole, killed = (Run(nursery, spec, str(tmp_path / "store"), name) for name in ("a", "b"))
    process = whole.start()
    assert process.wait() == 0, process.err
    reference = Undisturbed(spec, whole.end())
    assert b"_orig_mod" not in reference.end.model
    assert [e["compile_seconds"] > 0 for e in whole.history() if "compile_seconds" in e] == [True]
    process, hold = killed.start_held(4)
    hold.until_reached()
    process.signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process = killed.start()
    assert process.wait() == 0, process.err
    assert_undisturbed(killed, reference)


def test_a_run_without_a_compiler_ends_at_once(nursery: Nursery, tmp_path: Path) -> None:
    """With exit code 2 and one line, before anything is written; `validate` says the same."""
    spec = write(tmp_path, EDITS)
    missing = {**os.environ, "CXX": "no-such-compiler"}
    run = Run(nursery, spec, str(tmp_path / "store"))
    for process in (
        run.start(environment=missing),
        nursery.start("validate", spec, environment=missing),
    ):
        assert process.wait() == 2
        (line,) = process.err.splitlines()
        assert line.startswith("$.train.compile: found true; there is no C++ compiler no-such-")
    assert not (tmp_path / "store").exists()
