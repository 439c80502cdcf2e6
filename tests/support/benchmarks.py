"""The sections of docs/benchmarks.md: one for each results file that is in tests/bench/results/."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from tests.bench.header import RESULTS, headers


class Section(NamedTuple):
    """A benchmark, which is on the page once its results are there."""

    title: str
    name: str
    """Of the results file."""
    module: str
    """In tests.bench, whose `markdown` makes the table of a results file."""


SECTIONS = (
    Section("Multi-task methods", "multitask", "multitask.tables"),
    Section("Speed", "speed", "speed"),
    Section("The price of the ledger in every network", "networks", "price"),
    Section("Scale", "scale", "scale.table"),
    Section("Survival", "survival", "survival.table"),
)


def sections(folder: Path = RESULTS) -> str:
    """All sections whose results are in a folder, as markdown."""
    return "\n\n".join(
        f"## {section.title}\n\n{_body(section, path)}"
        for section in SECTIONS
        if (path := folder / f"{section.name}.jsonl").exists()
    )


def _body(section: Section, path: Path) -> str:
    """The table, and below it what made it."""
    table: str = import_module(f"tests.bench.{section.module}").markdown(path)
    made = [
        f"`{header.command}`, {header.date}, on {header.machine}; "
        + ", ".join(f"{name} {version}" for name, version in header.versions.items())
        for header in headers(path)
    ]
    return f"{table.strip()}\n\n" + "\n".join(f"- {line}" for line in made)
