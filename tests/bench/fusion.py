"""Where inputs without pixels should join an image, and how large embeddings should start.

    python -m tests.bench.fusion [--seeds 3]

Each row trains the job of tests/train/test_inputs.py: the digit is told by an image alone, the
height by an age, the income by a city. The table is markdown.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from job.model import built_in, entry
from tests.train.test_inputs import DIGITS, digits, trained

MODELS: dict[str, dict[str, Any]] = {
    "conv2d": {"kind": "conv2d", "width": 16},
    "mlp": DIGITS["model"],
}
TASKS = [task["name"] for task in DIGITS["tasks"]]


def skills(folder: Path, model: str, apart: bool, start: float, seed: int) -> list[float]:
    """Validation skills after the last epoch, by task."""
    made = functools.partial(entry.Entry, apart=apart)

    def built(inputs: Any, shapes: Any, indicated: Any, apart: bool) -> entry.Entry:
        return made(inputs, shapes, indicated)

    with patch.object(built_in, "Entry", built), patch.object(entry, "SMALL", start):
        tasks = trained(DIGITS, folder, model=MODELS[model], seed=seed).epochs[-1].tasks
    return [100 * float(tasks[name].val_skill or 0.0) for name in TASKS]


def main(seeds: int) -> None:
    """Print the table."""
    print(f"| network | inputs without pixels | embeddings start at | {' | '.join(TASKS)} |")
    print(f"|---|---|---|{'---|' * len(TASKS)}")
    with tempfile.TemporaryDirectory() as name:
        digits(folder := Path(name))
        for model in MODELS:
            for apart in (False, True):
                for start in (1.0, 0.1):
                    rows = [skills(folder, model, apart, start, s) for s in range(seeds)]
                    each = zip(*rows, strict=True)
                    cells = [f"{statistics.mean(x):.0f} ± {statistics.stdev(x):.0f}" for x in each]
                    where = "apart" if apart else "at every pixel"
                    print(f"| {model} | {where} | {start:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    main(parser.parse_args().seeds)
