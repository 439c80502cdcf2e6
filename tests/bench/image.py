"""What a new spec costs in an image: the rebuild, and what has to be pushed, beside a naive one.

    python -m tests.bench.image [--rounds 5]

Both images hold the same packages, code and spec. The naive Dockerfile is what most have: copy
everything, then install. Its packages come from pip's cache on this machine, so that the network
has no part in its time. Each round writes a spec that was never built and builds both, in turning
order; medians. Needs a Docker engine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.support.command import ROOT

NAIVE = """
FROM python:3.11-slim-bookworm
COPY . /app
WORKDIR /app
RUN --mount=type=cache,target=/root/.cache \\
    pip install --no-deps -r requirements.lock && pip install torch==2.13.0
ENTRYPOINT ["python", "-m", "job.supervise"]
"""
LAYERED, ONE = "evengrad:bench", "evengrad:bench-naive"


def build(folder: Path, tag: str, *arguments: str) -> float:
    """Build an image; returns seconds."""
    begun = time.perf_counter()
    subprocess.run(
        ["docker", "build", "-q", "-t", tag, *arguments, "."],
        cwd=folder,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - begun


def layers(tag: str) -> list[tuple[str, str]]:
    """Size and command of every layer that is not empty, newest first."""
    form = "{{.Size}}|{{.CreatedBy}}"
    said = subprocess.run(
        ["docker", "history", "--no-trunc", "--format", form, tag],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = [line.partition("|") for line in said.splitlines()]
    return [(size, command) for size, _, command in rows if size != "0B"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        archive = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, check=True,
        ).stdout  # fmt: skip
        subprocess.run(
            ["cp", "--parents", "-t", str(folder), *filter(None, archive.decode().split("\0"))],
            cwd=ROOT,
            check=True,
        )
        (folder / "naive").write_text(NAIVE)
        spec = folder / "docker/smoke.json"
        ours = ["--target", "cpu", "--build-arg", "TORCH_INDEX="]
        sides = {LAYERED: ours, ONE: ["-f", "naive"]}
        taken: dict[str, list[float]] = {tag: [] for tag in sides}
        for i in range(options.rounds + 1):
            content = json.loads(spec.read_text())
            content["name"] = f"bench-{uuid.uuid4().hex[:8]}"
            spec.write_text(json.dumps(content))
            order = list(sides) if i % 2 else list(reversed(sides))
            for tag in order:
                taken[tag].append(build(folder, tag, *sides[tag]))
    table = Table(title="an image for a new spec", title_justify="left")
    for column in ("Dockerfile", "rebuild, s (median)", "new layers, to be pushed"):
        table.add_column(column)
    newest = {LAYERED: 1, ONE: 2}
    for tag, times in taken.items():
        sizes = " + ".join(size for size, _ in layers(tag)[: newest[tag]])
        table.add_row(tag, f"{statistics.median(times[1:]):.1f}", sizes)
    console = Console(width=100)
    console.print(table)
    for size, command in layers(LAYERED):
        console.print(f"{size:>8}  {command[:80]}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
