"""The tables as markdown, of what is measured so far, and what follows from them in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.faults.results import Results
from tests.bench.multitask.keys import alone_key, run_key, search_key, starved_key
from tests.bench.multitask.methods import METHODS, RAW, SUM, TUNED, has_numbers
from tests.bench.multitask.peers import LIBMTL, TORCHJD
from tests.bench.multitask.problems import PROBLEMS, Problem
from tests.bench.multitask.scores import Interval, delta_m, difference, interval
from tests.bench.multitask.starved import LUDWIG, SPEC, WEIGHTINGS

MOST_SEEDS = 100
OF_SHARES = ("task_starving", "task_stalled")
"""Alarms with a task's share of the gradient; the first if it is under a tenth of an even one."""
ROWS = (*METHODS, TORCHJD, *LIBMTL)
BY_SEED = Mapping[int, float]
WITHOUT_NUMBERS = "Of tasks without numbers the plain sum is the standardized one."


class Measured:
    """What is measured of a data set."""

    def __init__(self, name: str, results: Results) -> None:
        self.problem: Problem = PROBLEMS[name]
        self.lines = {row: _lines(results, lambda s, r=row: run_key(name, r, s)) for row in ROWS}
        self.alone = {
            task: _lines(results, lambda s, t=task: alone_key(name, t, s))
            for task in self.problem.tasks
        }

    def values(self, row: str, task: str) -> dict[int, float]:
        """A task's metric by seed."""
        return _values(self.lines[row], task)

    def values_alone(self, task: str) -> dict[int, float]:
        """The same of the task's own network."""
        return _values(self.alone[task], task)

    def deltas(self, row: str) -> dict[int, float]:
        """Δm by seed, of the seeds on which all of it is measured."""
        found = {}
        for seed in self.lines[row]:
            mine = {t: v[seed] for t in self.problem.tasks if seed in (v := self.values(row, t))}
            alone = {t: v[seed] for t in self.problem.tasks if seed in (v := self.values_alone(t))}
            if len(mine) == len(alone) == len(self.problem.tasks):
                found[seed] = delta_m(mine, alone, self.problem.higher)
        return found

    def step_ms(self, row: str) -> float | None:
        """CPU milliseconds of a step, the median over the seeds."""
        found = [line["ms"] for line in self.lines[row].values() if line.get("ms")]
        return statistics.median(found) if found else None

    def besides(self) -> dict[str, Interval]:
        """By row, Δm less that of the standardized sum, wide enough for all rows together."""
        others = [row for row in ROWS if row != SUM and self.deltas(row)]
        base = self.deltas(SUM)
        return {row: difference(self.deltas(row), base, of=len(others)) for row in others}


def markdown(file: Path) -> str:
    """All tables and conclusions of a results file."""
    results = Results(file.parent, file.name)
    measured = {name: Measured(name, results) for name in PROBLEMS}
    parts = [
        *_setting(),
        "",
        *_summary(measured),
        "",
        *_in_words(measured),
        "",
        *_searches(results),
        *(line for name in PROBLEMS for line in _of_problem(measured[name])),
        *_starved(results),
    ]
    return "\n".join(parts) + "\n"


def _setting() -> Iterator[str]:
    """What was trained, and how."""
    yield (
        "Every method trains the same network for the same steps under the same schedule "
        "(`one_cycle` up to 0.003, AdamW, decay 0.01), which was chosen for none of them. Metrics "
        "are of a test split that neither training nor search reads; those of the prices are of "
        "the last fifth of the windows, of which the search sees no day. All seeds have the same "
        "split: intervals are of initialisation, order and dropout, not of other samples."
    )
    yield ""
    yield (
        f"`{RAW}` has number targets in their units; all other rows have them standardized, so "
        "that a balancer is not compared with a missing preparation of the data. Nash-MTL solves "
        "at every tenth step. UPGrad, CAGrad, IMTL-G, FAMO, DWA and Nash-MTL are torchjd's, fed "
        "with the exact Gram matrix at z. TorchJD's own loop and LibMTL's trainer start from the "
        "same network and take the same batches; LibMTL has Adam and a cosine by epoch (its "
        "package on PyPI, 1.1.5, imports what torchvision no longer has: this is the code of its "
        "repository, with its device set to the CPU)."
    )
    yield ""
    yield _row("data", "network", "batch, length")
    yield _row("---", "---", "---")
    for problem in PROBLEMS.values():
        model, train = problem.spec["model"], problem.spec["train"]
        kind = f"`{model['kind']}` {_sizes(model)}"
        yield _row(problem.title, kind, f"{train['batch_size']}, {train['epochs']} epochs")


def _sizes(model: Mapping[str, Any]) -> str:
    hidden = model.get("hidden", model.get("width"))
    return " × ".join(map(str, hidden)) if isinstance(hidden, list) else str(hidden)


def _summary(measured: Mapping[str, Measured]) -> Iterator[str]:
    yield "### Δm against single-task networks"
    yield ""
    yield (
        "Δm (Maninis et al. 2019) in percent, above 0 is better; mean over the seeds ± its 95 % "
        "interval, paired by seed. In brackets the CPU time of a step over that of "
        f"`{SUM}`. {WITHOUT_NUMBERS}"
    )
    yield ""
    yield _row("method", *measured)
    yield _row(*["---"] * (1 + len(measured)))
    for row in ROWS:
        cells = [_delta_cell(each, row) for each in measured.values()]
        if any(cell != "–" for cell in cells):
            yield _row(_named(row), *cells)


def _named(row: str) -> str:
    return f"**{row}**" if row == SUM else row


def _delta_cell(measured: Measured, row: str) -> str:
    deltas = measured.deltas(row)
    if not deltas:
        return "–"
    mine, base = measured.step_ms(row), measured.step_ms(SUM)
    time = f" ({mine / base:.2f})" if mine and base else ""
    return f"{_signed(interval([*deltas.values()]))}{time}"


def _in_words(measured: Mapping[str, Measured]) -> Iterator[str]:
    """For each data set, what differs from the standardized sum beyond chance."""
    yield f"Beside `{SUM}`, by seed and at a level of 5 % for all rows of a data set together:"
    yield ""
    for name, each in measured.items():
        found = each.besides()
        known = {row: i for row, i in found.items() if i.seeds > 1}
        if not known:
            yield f"- {name}: not measured yet."
            continue
        better = [f"{r} by {_signed(i)}" for r, i in known.items() if i.off_zero and i.mean > 0]
        worse = [f"{r} by {_signed(i)}" for r, i in known.items() if i.off_zero and i.mean < 0]
        parts = [
            f"better: {', '.join(better)}" if better else "nothing is better",
            f"worse: {', '.join(worse)}" if worse else "nothing is worse",
        ]
        seeds = min(i.seeds for i in known.values())
        yield f"- {name} ({seeds} seeds): {'; '.join(parts)}."


def _searches(results: Results) -> Iterator[str]:
    lines = {name: results.get(search_key(name)) for name in PROBLEMS}
    if not any(lines.values()):
        return
    trials = {line["trials"] for line in lines.values() if line}
    yield f"`{TUNED}` has what {', '.join(map(str, sorted(trials)))} trials of `job search` found:"
    yield ""
    for name, line in lines.items():
        if line:
            found = line["found"]
            weights = found["balance"]["weights"]
            yield (
                f"- {name}: lr {found['optimizer']['lr']:.2g}, decay "
                f"{found['optimizer']['weight_decay']:.2g}, weights "
                f"{', '.join(f'{task} {w:.2g}' for task, w in weights.items())}."
            )
    yield ""


def _of_problem(measured: Measured) -> Iterator[str]:
    problem = measured.problem
    if not any(measured.lines.values()):
        return
    yield f"### {problem.title}"
    yield ""
    up = {True: "↑", False: "↓"}
    heads = [f"{t}: {problem.metrics[t]} {up[problem.higher[t]]}" for t in problem.tasks]
    yield _row("method", *heads, "step")
    yield _row(*["---"] * (2 + len(heads)))
    alone = [_plain(interval([*measured.values_alone(t).values()])) for t in problem.tasks]
    yield _row("each task alone", *alone, "")
    for row in ROWS:
        if measured.lines[row]:
            cells = [_plain(interval([*measured.values(row, t).values()])) for t in problem.tasks]
            failed = sum("error" in line for line in measured.lines[row].values())
            ms = measured.step_ms(row)
            step = f"{ms:.1f} ms" if ms else ""
            yield _row(_named(row), *cells, step + (f", {failed} failed" if failed else ""))
    yield ""
    if not has_numbers(problem):
        yield WITHOUT_NUMBERS
        yield ""


def _starved(results: Results) -> Iterator[str]:
    """A peer's balancer that starves a task, and what is said of it."""
    lines = {w: _lines(results, lambda s, w=w: starved_key(w, s)) for w in WEIGHTINGS}
    if not any(lines.values()):
        return
    tasks = [task["name"] for task in SPEC["tasks"]]
    yield "### A balancer that starves a task without a word"
    yield ""
    yield (
        f"{LUDWIG} reads losses alone, in whatever units the targets have, and records neither "
        "weights nor gradients. Here it is the balancer of a run of this program."
    )
    yield ""
    heads = [f"{task}: skill, share" for task in tasks]
    yield _row("weighting", *heads, "alarms with a task's share, and from which epoch")
    yield _row(*["---"] * (2 + len(tasks)))
    for weighting, found in lines.items():
        if not found:
            continue
        cells = []
        for task in tasks:
            skills = [line["skills"][task] for line in found.values()]
            shares = [line["shares"][task] for line in found.values()]
            cells.append(f"{_percent(skills)}, {_percent(shares)}")
        yield _row(weighting, *cells, _alarms([*found.values()]))
    yield ""


def _alarms(lines: Sequence[Mapping[str, Any]]) -> str:
    """`task_starving countdown: 5 of 5 seeds, epoch 2` for each alarm of a task."""
    epochs: dict[str, list[int]] = {}
    for line in lines:
        for alarm in line["alarms"]:
            if alarm["kind"] in OF_SHARES:
                epochs.setdefault(f"`{alarm['kind']}` {alarm['task']}", []).append(alarm["epoch"])
    texts = [
        f"{what}: {len(at)} of {len(lines)} seeds, epoch {statistics.median_low(at)}"
        for what, at in epochs.items()
    ]
    return "; ".join(texts) or "none"


def _lines(results: Results, key_of: Any) -> dict[int, dict[str, Any]]:
    """The lines of a key's seeds."""
    found = {seed: results.get(key_of(seed)) for seed in range(MOST_SEEDS)}
    return {seed: line for seed, line in found.items() if line is not None}


def _values(lines: Mapping[int, Mapping[str, Any]], task: str) -> dict[int, float]:
    return {
        seed: value
        for seed, line in lines.items()
        if (value := line["metrics"].get(task)) is not None
    }


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _signed(value: Interval) -> str:
    return f"{value.mean:+.1f}{_around(value, 1)}"


def _plain(value: Interval) -> str:
    if not value.seeds:
        return "–"
    digits = 3 if abs(value.mean) < 1 else 2 if abs(value.mean) < 10 else 1
    return f"{value.mean:.{digits}f}{_around(value, digits)}"


def _around(value: Interval, digits: int) -> str:
    return f" ± {value.around:.{digits}f}" if math.isfinite(value.around) else ""


def _percent(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{100 * statistics.fmean(known):.1f} %" if known else "–"
