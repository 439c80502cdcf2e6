"""Results as lines of JSON, under a header that says what made them, where and when.

A header is a line with a `bench`; the first line of a file is one. Where a file is gone
on with by another command, on another machine or with other versions, a further one stands before
those results.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"

Row = dict[str, Any]


@dataclass(frozen=True)
class Header:
    """What made the results below it."""

    bench: str
    """Name of the module in tests/bench/."""
    command: str
    machine: str
    """CPU, cores of this process, and GPU if torch finds one."""
    versions: dict[str, str]
    """Python's, torch's and the peers'."""
    date: str
    """UTC day, as 2026-01-31."""


def begin(
    path: Path, bench: str, packages: Iterable[str] = (), others: dict[str, str] | None = None
) -> None:
    """Write a header at the end of a results file, unless its last one says the same but the date.

    A header there that has no results, as what wrote it was ended, is taken away. Call this when
    something is left to measure. packages: the peers' distributions that are installed
    here, whose versions matter. others: versions of what is not.
    """
    versions = _versions(packages) | (others or {})
    header = Header(bench, _command(), _machine(), versions, _today())
    _drop_last_headers(path)
    last = headers(path)[-1:]
    same = ("command", "machine", "versions")
    if last and all(getattr(last[0], name) == getattr(header, name) for name in same):
        return
    append(path, asdict(header))


def _drop_last_headers(path: Path) -> None:
    """Take away the headers at a file's end; whoever is killed meanwhile leaves the file whole."""
    lines = _lines(path)
    if not lines or "bench" not in lines[-1]:
        return
    while lines and "bench" in lines[-1]:
        lines.pop()
    partial = path.with_name(f".{path.name}.part")
    partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
    partial.replace(path)


def append(path: Path, row: Row) -> None:
    """Add a line to a results file, whose folder need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def rows(path: Path) -> list[Row]:
    """The results of a file, without headers; none where there is no file."""
    return [line for line in _lines(path) if "bench" not in line]


def headers(path: Path) -> list[Header]:
    """The headers of a file that have results below them; none where there is no file."""
    lines = _lines(path)
    followed = itertools.pairwise(lines)
    return [Header(**line) for line, below in followed if "bench" in line and "bench" not in below]


def _lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _command() -> str:
    """How this process was started."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def _machine() -> str:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = "1 core" if count == 1 else f"{count} cores"
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {cores}{gpu}"


def _versions(packages: Iterable[str]) -> dict[str, str]:
    python = {"python": platform.python_version(), "torch": torch.__version__}
    return python | {name: version(name) for name in packages}


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
