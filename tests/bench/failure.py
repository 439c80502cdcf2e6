"""The failing trainer, its published fixes, the recipe that mends it, and what else was tried.

    python -m tests.bench.failure [--seeds 8] [--first 0] [--workers 2] [--rows PATTERN]

Every row is docker/failing.json or docker/mended.json with a few values edited, trained on the same
seeds; the table is markdown. PATTERN is of a shell and chooses rows by name; the failing trainer,
which the others are measured against, is always among them.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from job.compare.outcome import Outcome
from job.compare.runs import Variant, compare
from job.events import EpochTask
from job.spec.read import parse_spec

ROOT = Path(__file__).parents[2]
STARVED, FED = "countdown", "pointers"
OTHERS = ("type", "pointers", "binary")
FAILING, DEFAULT = "failing normalizer", "default"
ACCEPTED, EARLY = 0.2, 5
"""The acceptance test: the starved task's loss falls by more than this by epoch EARLY."""

# --- rows -------------------------------------------------------------------------------------

Edits = dict[str, Any]
"""Path in the spec → its value."""


def balanced(kind: str, **options: Any) -> Edits:
    return {"balance": {"kind": kind, **options}}


def weighted(kind: str, *weights: float) -> Edits:
    return balanced(kind, weights=dict(zip((*OTHERS, STARVED), weights, strict=True)))


def dropout(inputs: float, heads: float) -> Edits:
    return {"model.dropout": {"input": inputs, "heads": heads}}


SUM, KENDALL, NORMS = balanced("fixed"), balanced("uncertainty"), balanced("gradient_norm")
SQRT_N = weighted("running_mean_sqrt_n", 10, 70, 10, 10)
EQUAL, EQUAL_SQRT_N = balanced("running_mean"), balanced("running_mean_sqrt_n")
SCALAR = {"tasks.3": {"name": STARVED, "target": "start", "level": "window",
                      "loss": {"kind": "huber", "delta": 1.0}, "unit": "bars"}}  # fmt: skip
SCALED: Edits = {"tasks.3.transform": {"kind": "standardize"}}
UNSCALED: Edits = {"tasks.3.transform": {"kind": "none"}}
ORTHOGONAL, ORDINARY = ({"model.init.lstm": kind} for kind in ("orthogonal", "default"))
BIASES, NO_BIASES = ({"model.init.heads": kind} for kind in ("target_mean", "default"))
MENDED = SCALED | ORTHOGONAL
BEST = MENDED | BIASES

OF_FAILING: dict[str, Edits] = {
    FAILING: {},
    "fix 1: Kendall": KENDALL,
    "fix 2: × √N": SQRT_N,
    "fix 3: scalar countdown": SCALAR,
    "fix 4: batch mean": weighted("batch_mean", 10, 70, 10, 10),
    "fix 5: weights 10/60/10/20": weighted("running_mean", 10, 60, 10, 20),
    "weights 25 × 4": weighted("running_mean", 25, 25, 25, 25),
    "equal norms at z": NORMS,
    "orthogonal": ORTHOGONAL,
    "standardized": SCALED,
    "standardized, sum": SCALED | SUM,
    "standardized, Kendall": SCALED | KENDALL,
    "standardized, orthogonal": MENDED,
    "standardized, orthogonal, sum": MENDED | SUM,
    "standardized, orthogonal, Kendall": MENDED | KENDALL,
    "standardized, orthogonal, biases, equal norms": BEST | NORMS,
    "standardized, orthogonal, biases, equal": BEST | EQUAL,
    "standardized, orthogonal, biases, √N 10/70/10/10": BEST | SQRT_N,
    "standardized, orthogonal, biases, √N equal": BEST | EQUAL_SQRT_N,
}
OF_DEFAULT: dict[str, Edits] = {
    DEFAULT: {},
    "default, not standardized": UNSCALED,
    "default, ordinary init": ORDINARY,
    "default, no biases": NO_BIASES,
    "default, head lr 1e-3": {"optimizer.head_lr": 1e-3},
    "default, head lr 5e-3": {"optimizer.head_lr": 5e-3},
    "default, dropout 0/0": dropout(0.0, 0.0),
    "default, dropout .1/.6": dropout(0.1, 0.6),
    "default, dropout .3/.3": dropout(0.3, 0.3),
    "default, constant lr": {"train.schedule": "constant"},
    "default, one cycle": {"train.schedule": "one_cycle"},
    "default, clip 1": {"train.clip": 1.0},
    "default, √N equal": EQUAL_SQRT_N,
    "default, √N 10/70/10/10": SQRT_N,
    "default, running mean equal": EQUAL,
    "default, sum": SUM,
    "default, Kendall": KENDALL,
    "default, equal norms": NORMS,
    **{
        f"default, {method}": balanced("torchjd", method=method)
        for method in ("UPGrad", "IMTLG", "AlignedMTL", "MGDA")
    },
}


def rows(pattern: str, seed: int) -> list[Variant]:
    """The failing trainer, and the rows whose names match; `seed` is the first of the seeds."""
    bases = (("docker/failing.json", OF_FAILING), ("docker/mended.json", OF_DEFAULT))
    return [
        variant(name, ROOT / path, edits | {"seed": seed})
        for path, family in bases
        for name, edits in family.items()
        if name == FAILING or fnmatch.fnmatch(name, pattern)
    ]


def variant(name: str, path: Path, edits: Edits) -> Variant:
    """The spec at `path`, edited, as a row of that name."""
    content = json.loads(path.read_text())
    for where, value in edits.items():
        *way, last = where.split(".")
        inner = content
        for key in way:
            inner = inner[int(key) if isinstance(inner, list) else key]
        inner[int(last) if isinstance(inner, list) else last] = copy.deepcopy(value)
    return Variant(name, parse_spec(json.dumps(content), name), path.parent)


# --- table ------------------------------------------------------------------------------------

COLUMNS = (
    "row",
    f"drop by {EARLY}, %",
    "drop at the end, %",
    "passes",
    f"others at the end, % ({' / '.join(OTHERS)}), train [validation]",
    "others no worse",
    "skill at the end, %, train [validation]",
    "skill > 0",
    f"ratio {STARVED} / {FED}: heads; z",
)


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes in markdown, a line per row."""
    runs: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        runs.setdefault(outcome.variant, []).append(outcome)
    lines = [COLUMNS, ["---"] * len(COLUMNS)]
    lines += [[name, *_cells(row, runs[FAILING])] for name, row in runs.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: list[Outcome], failing: list[Outcome]) -> list[str]:
    if failed := [f"seed {run.seed}: {run.error}" for run in row if run.error]:
        return ["; ".join(failed)] + [""] * (len(COLUMNS) - 2)
    last = [run.epochs[-1].tasks[STARVED] for run in row]
    early = [run.epochs[EARLY - 1].tasks[STARVED].drop for run in row]
    skills = [_or_nan(task.skill) for task in last]
    return [
        _spread(early),
        _spread([task.drop for task in last]),
        _count(drop > ACCEPTED for drop in early),
        *_others(row, failing),
        f"{_spread(skills)} [{_spread([_or_nan(task.val_skill) for task in last])}]",
        _count(skill > 0 for skill in skills),
        f"{_ratio(row, lambda t: t.head_pull)}; {_ratio(row, lambda t: t.pull)}",
    ]


def _or_nan(skill: float | None) -> float:
    return math.nan if skill is None else skill


def _others(row: list[Outcome], failing: list[Outcome]) -> tuple[str, str]:
    """The other tasks' losses at the end relative to the failing trainer's on the same seed."""
    changes = [
        [_changes(run, base, name) for name in OTHERS]
        for run, base in zip(row, failing, strict=True)
    ]
    train, validation = (
        " / ".join(
            f"{100 * statistics.fmean(run[k][split] for run in changes):+.0f}"
            for k in range(len(OTHERS))
        )
        for split in (0, 1)
    )
    none_worse = _count(all(change <= 0 for task in run for change in task) for run in changes)
    return f"{train} [{validation}]", none_worse


def _changes(run: Outcome, base: Outcome, task: str) -> tuple[float, float]:
    """On the training and on the validation split."""
    a, b = (outcome.epochs[-1].tasks[task] for outcome in (run, base))
    return (
        a.train_loss_original / b.train_loss_original - 1,
        a.val_loss_original / b.val_loss_original - 1,
    )


def _ratio(row: list[Outcome], pull: Callable[[EpochTask], float]) -> str:
    """Of the weighted gradients' means over the first epoch's steps, then over the seeds."""
    first = [run.epochs[0].tasks for run in row]
    return f"{statistics.fmean(pull(tasks[STARVED]) / pull(tasks[FED]) for tasks in first):.2g}"


def _spread(shares: list[float]) -> str:
    around = f" ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * statistics.fmean(shares):.1f}{around}"


def _count(passed: Iterable[bool]) -> str:
    seeds = list(passed)
    return f"{sum(seeds)}/{len(seeds)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", default="*", metavar="PATTERN")
    options = parser.parse_args()
    outcomes = compare(
        rows(options.rows, options.first),
        options.seeds,
        options.workers,
        lambda line: print(line, file=sys.stderr),
    )
    print(table(outcomes))


if __name__ == "__main__":
    main()
