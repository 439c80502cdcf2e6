"""What cannot be read or written is one line with a documented exit code, and leaves no file."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.command import ROOT
from tests.support.people import PEOPLE

ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "PYTHONDONTWRITEBYTECODE": "1",  # a file of bytecode that is cut off would break later starts
    "OMP_NUM_THREADS": "1",
    "PATH": "/usr/bin:/bin",
}


def command(*words: str | Path, folder: Path, most: int | None = None) -> tuple[int, list[str]]:
    """The exit code and stderr of a command whose files have at most `most` bytes."""

    def limited() -> None:
        if most is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    done = subprocess.run(
        [sys.executable, "-m", "job", *map(str, words)],
        cwd=folder,
        env=ENVIRONMENT,
        preexec_fn=limited,
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done.returncode, done.stderr.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "npz"])
def test_a_full_disk(small: Path, tmp_path: Path, ending: str) -> None:
    """A file that does not fit is not there, nor is a part of it."""
    features = np.load(small / "small.npz")["features"]
    np.savez(tmp_path / "new.npz", features=np.tile(features, (40, 1, 1)))
    words = ("predict", small / "store/small/run", "--data", "new.npz", "-o", f"out/x.{ending}")
    code, lines = command(*words, folder=tmp_path, most=10_000)
    assert code == 1
    assert lines[-1].startswith("evengrad: ")
    assert "File too large" in lines[-1]
    assert not any("Traceback" in line for line in lines)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_a_table_without_rows(table: Path, tmp_path: Path) -> None:
    """`evaluate` has nothing to measure."""
    head = (table / "people.csv").read_text().splitlines()[0]
    (tmp_path / "none.csv").write_text(f"{head}\n")
    run = table / "store" / PEOPLE["name"] / "run"
    code, lines = command("evaluate", run, "--data", "none.csv", folder=tmp_path)
    assert (code, lines[-1][:23]) == (2, "none.csv: found no rows")
