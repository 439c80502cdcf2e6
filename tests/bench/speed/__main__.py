"""`python -m tests.bench.speed`: see the package."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import tests.bench.speed
from tests.bench import header
from tests.bench.speed.clock import BEGUN
from tests.bench.speed.problem import EPOCHS, NETWORKS, VALIDATION, write
from tests.bench.speed.table import AGAIN, BARE, KEPT, OURS, markdown
from tests.support.command import ROOT

RESULTS = header.RESULTS / "speed.jsonl"
SIDES = {
    BARE: "bare",
    AGAIN: "bare",
    KEPT: "bare",
    OURS: "evengrad",
    "Lightning": "lightning",
    "transformers": "hf",
}
"""By name, the program of `tests/bench/speed/`."""
ENVIRONMENT = {
    KEPT: {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
}
"""What glibc is told beside: to keep freed memory for the next step, as evengrad tells it."""


def ran(side: str, python: str, folder: Path) -> dict[str, float]:
    """The marks of a side's process, and its whole time."""
    program = SIDES[side]
    out, settings = folder / "marks.json", {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    begun = time.time()
    command = [python, "-m", f"tests.bench.speed.{program}", str(folder), str(out)]
    subprocess.run(
        command,
        cwd=folder,
        env=os.environ | settings | ENVIRONMENT.get(side, {}) | {BEGUN: str(begun)},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    whole = time.time() - begun
    marks: dict[str, float] = json.loads(out.read_text())
    return marks | {"whole": whole - marks.pop("borrowed")}


def measured(network: str, tasks: int, side: str, python: str) -> dict[str, Any]:
    """A side's result in a round."""
    about = NETWORKS[network]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, network, tasks)
        marks = ran(side, python, folder)
    samples = about["samples"] - round(VALIDATION * about["samples"])
    facts = {"samples": samples, "batch": about["batch"], "epochs": EPOCHS}
    return facts | {"torch": torch.__version__} | marks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=tests.bench.speed.__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 8, 32])
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--hf", metavar="PYTHON", help="an interpreter with transformers")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    other = options.hf and os.path.abspath(options.hf)  # a side runs in a folder of its own
    asked = dict.fromkeys([BARE, *options.sides])  # all else is a ratio to it
    sides = [side for side in asked if options.hf or SIDES[side] != "hf"]
    if len(sides) < len(asked):
        print("transformers is left out, as --hf names no interpreter")
    results = header.rows(options.results)
    there = {(r["network"], r["tasks"], r["round"], r["side"]) for r in results}
    left = [
        place
        for k in range(options.rounds)
        for network in options.networks
        for tasks in options.tasks
        for side in sides[k % len(sides) :] + sides[: k % len(sides)]
        if (place := (network, tasks, k, side)) not in there
    ]
    if left:
        others = {"transformers": _transformers(other)} if other else {}
        header.begin(options.results, "speed", ["pytorch-lightning"], others)
    for network, tasks, k, side in left:
        python = other if SIDES[side] == "hf" else sys.executable
        named = {"network": network, "tasks": tasks, "round": k, "side": side}
        result = named | measured(network, tasks, side, python)
        header.append(options.results, result)
        print(json.dumps(result), flush=True)
    print(markdown(options.results))


def _transformers(python: str) -> str:
    """The version that an interpreter has."""
    asked = "from importlib.metadata import version; print(version('transformers'))"
    return subprocess.run(
        [python, "-c", asked], check=True, capture_output=True, text=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
