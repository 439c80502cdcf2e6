"""Runs side by side: specs × balancers × seeds, and one table of what became of each task."""

from __future__ import annotations

import json
import math
import multiprocessing
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from job.events import Epoch, GateResult, Step
from job.read_spec import parse_spec
from job.spec import JobSpec

EARLY = 5
"""The epoch at which an early drop is read: the acceptance test's."""


@dataclass(frozen=True)
class Variant:
    """A row of the table."""

    name: str
    spec: JobSpec
    folder: Path
    """Where the spec's relative paths start."""


@dataclass(frozen=True)
class Outcome:
    """One run's record, as far as the table needs it."""

    variant: str
    seed: int
    epochs: list[Epoch]
    gates: list[GateResult]
    step_ms: float
    error: str | None


def variants(spec: JobSpec, path: Path, balance: str) -> list[Variant]:
    """The spec under each balancer named (`kind` or `torchjd:NAME`, by comma), or as it is.

    Weights that the spec gives are kept where the balancer takes weights. Raises InputError.
    """
    folder = path.resolve().parent
    rows = []
    for name in filter(None, (part.strip() for part in balance.split(","))):
        kind, _, method = name.partition(":")
        chosen: dict[str, Any] = {"kind": kind}
        if kind == "torchjd":
            chosen["method"] = method
        elif weights := getattr(spec.balance, "weights", None):
            chosen["weights"] = weights
        content = json.loads(spec.canonical()) | {"balance": chosen}
        rows.append(Variant(name, parse_spec(json.dumps(content), f"--balance {name}"), folder))
    return rows or [Variant(path.stem, spec, folder)]


def compare(
    rows: Sequence[Variant], seeds: int, workers: int, progress: Callable[[str], None]
) -> list[Outcome]:
    """Train every row on every seed, `workers` at a time, each in its own process."""
    jobs = [(row, row.spec.seed + s) for s in range(seeds) for row in rows]
    results = []
    # Spawned, since a forked child of a process that has used torch may hang.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(train, row, seed, workers > 1) for row, seed in jobs]
        for done, future in enumerate(as_completed(futures), 1):
            outcome = future.result()
            results.append(outcome)
            end = outcome.error or f"{len(outcome.epochs)} epochs"
            progress(f"{done}/{len(jobs)} {outcome.variant}, seed {outcome.seed}: {end}")
    order = {row.name: i for i, row in enumerate(rows)}
    return sorted(results, key=lambda o: (order[o.variant], o.seed))


def train(row: Variant, seed: int, one_thread: bool) -> Outcome:
    """One run, in memory. A failure is an outcome."""
    import torch

    from job.data import load
    from job.ledger import NotFinite
    from job.train import Training

    if one_thread:
        torch.set_num_threads(1)
    spec = row.spec.model_copy(update={"seed": seed})
    epochs: list[Epoch] = []
    step_ms: list[float] = []

    def emit(event: BaseModel) -> None:
        if isinstance(event, Epoch):
            epochs.append(event)
        elif isinstance(event, Step):
            step_ms.append(event.step_ms)

    training = Training(spec, load(spec, row.folder))
    error = None
    try:
        training.run(emit, save=lambda: None, stopping=lambda: False)
    except NotFinite as fault:
        error = str(fault)
    gates = training.verdict.final(training.at.epoch)
    median = statistics.median(step_ms) if step_ms else math.nan
    return Outcome(row.name, seed, epochs, gates, median, error)


def summary(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Per row and task: mean and standard deviation over the seeds, as JSON values.

    A spread over one seed is null, and so is a mean over a run that failed.
    """
    rows: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        rows.setdefault(outcome.variant, []).append(outcome)
    return [_row(name, runs) for name, runs in rows.items()]


def _row(name: str, runs: list[Outcome]) -> dict[str, Any]:
    whole = [run for run in runs if run.error is None]
    gates = zip(*(run.gates for run in runs), strict=True)
    row: dict[str, Any] = {
        "row": name,
        "seeds": len(runs),
        "failed": [f"seed {run.seed}: {run.error}" for run in runs if run.error],
        "step_ms": _spread([run.step_ms for run in whole]),
        "gates": {column[0].gate: sum(g.passed for g in column) for column in gates},
        "tasks": {},
    }
    for task in whole[0].epochs[-1].tasks if whole else {}:
        early = [run.epochs[min(EARLY, len(run.epochs)) - 1].tasks[task] for run in whole]
        last = [run.epochs[-1].tasks[task] for run in whole]
        row["tasks"][task] = {
            f"drop_{EARLY}": _spread([t.drop for t in early]),
            "drop": _spread([t.drop for t in last]),
            "val_drop": _spread([t.val_drop for t in last]),
            "loss": _spread([t.train_loss_original for t in last]),
            "val_loss": _spread([t.val_loss_original for t in last]),
            "skill": _spread([t.skill for t in last]),
            "val_skill": _spread([t.val_skill for t in last]),
            "weight": _spread([t.weight for t in last]),
            "grad_share": _spread([t.grad_share for t in last]),
            "pull": _spread([t.pull for t in last]),
            "head_pull": _spread([t.head_pull for t in last]),
        }
    return row


def _spread(values: list[float]) -> dict[str, float | None]:
    finite = [v for v in values if math.isfinite(v)]
    whole = len(finite) == len(values) and bool(values)
    return {
        "mean": statistics.fmean(values) if whole else None,
        "sd": statistics.stdev(values) if whole and len(values) > 1 else None,
    }


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the summary, a line per row and task, for a person."""
    columns = {
        f"drop by {EARLY}": (f"drop_{EARLY}", "%"),
        "drop at end": ("drop", "%"),
        "loss": ("loss", ""),
        "validation": ("val_loss", ""),
        "skill": ("skill", "%"),
        "val. skill": ("val_skill", "%"),
        "share at z": ("grad_share", "%"),
        "weight": ("weight", ""),
    }
    shown = Table()
    shown.add_column("row")
    shown.add_column("task")
    for title in columns:
        shown.add_column(title, justify="right")
    console = Console(width=150 if not Console().is_terminal else None, highlight=False)
    for row in rows:
        ms = _cell(row["step_ms"], "")
        label = f"{row['row']}\n[dim]{row['seeds']} seeds, {ms} ms a step[/]"
        for i, (task, values) in enumerate(row["tasks"].items()):
            cells = [_cell(values[key], form) for key, form in columns.values()]
            shown.add_row(label if i == 0 else "", task, *cells)
        for failed in row["failed"]:
            shown.add_row(label if not row["tasks"] else "", f"[red]{failed}[/]")
        shown.add_section()
    console.print(shown)
    for row in rows:
        for gate, passed in row["gates"].items():
            console.print(f"{row['row']}: {gate}: {passed} of {row['seeds']} seeds")


def _cell(spread: dict[str, float | None], form: str) -> str:
    mean, sd = spread["mean"], spread["sd"]
    if mean is None:
        return "-"
    scale, digits = (100, ".1f") if form else (1, ".3g")
    around = "" if sd is None else f" ± {sd * scale:{digits}}"
    return f"{mean * scale:{digits}}{around}{form}"
