"""Time and memory of several ways to take one training step, cell by cell into a file.

A cell is a network with so many tasks and samples. Its sides run in one process on one batch, each
with its own copy of the network, in an order that turns with every round. A figure is the median
over the rounds of a side's time over the plain sum's in the same round; the plain sum against
itself is the noise. Memory is exact, whatever else the machine does: the peak of what torch's
allocator holds during one step (allocations as its profiler records them), with parameters, moments
and the batch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tests.bench.header import append, rows

PLAIN, AGAIN, FIXED = "plain weighted sum", "plain weighted sum, again", "evengrad, fixed"
SEPARATE = "K separate backwards"
LEAST = 3
"""Rounds of a cell and of a slow side, whatever the time."""
SLOW = 3
"""A slow side takes part in one round of so many."""


class Side(Protocol):
    """A way to take a step."""

    slow: bool
    """Whether it needs far longer than the others."""

    def step(self) -> None:
        """Take one."""

    def holds(self) -> list[Tensor]:
        """What it keeps between two steps, the batch too, but no gradients."""

    def drop_gradients(self) -> None:
        """Forget the gradients of the last step."""


class Key(NamedTuple):
    """What a cell is of."""

    network: str
    tasks: int
    batch: int
    device: str
    threads: int
    torch: str


class Cell(NamedTuple):
    """What a cell has measured."""

    key: Key
    rounds: int
    plain_ms: float
    time: dict[str, float]
    """By side, over the plain sum's."""
    memory: dict[str, float]
    """By side, the peak over the plain sum's."""
    peak: float
    """Bytes of the plain sum's peak."""


def measured(key: Key, sides: Mapping[str, Side], rounds: int, seconds: float) -> Cell:
    """Measure a cell; fewer rounds if its seconds are over."""
    cuda = key.device == "cuda"
    for side in sides.values():
        side.step()
    peaks = {name: _peak(side, cuda) for name, side in sides.items()}
    names, taken, begun = list(sides), list[dict[str, float]](), time.perf_counter()
    while len(taken) < rounds:
        i = len(taken)
        if i >= LEAST * SLOW and time.perf_counter() - begun > seconds:
            break
        turn = i % len(names)
        order = [n for n in names[turn:] + names[:turn] if i % SLOW == 0 or not sides[n].slow]
        taken.append({name: _seconds(sides[name], cuda) for name in order})
    ratios = {
        name: statistics.median(t[name] / t[PLAIN] for t in taken if name in t) for name in names
    }
    plain = statistics.median(t[PLAIN] for t in taken) * 1e3
    memory = {name: peaks[name] / peaks[PLAIN] for name in names}
    return Cell(key, len(taken), plain, ratios, memory, peaks[PLAIN])


def _seconds(side: Side, cuda: bool) -> float:
    """Of one step: CPU time of this thread, which other processes do not lengthen, or a GPU's."""
    if not cuda:
        begun = time.thread_time()
        side.step()
        return time.thread_time() - begun
    torch.cuda.synchronize()
    begun = time.perf_counter()
    side.step()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def _peak(side: Side, cuda: bool) -> float:
    """Bytes at the peak of one step."""
    side.drop_gradients()
    held = float(sum(tensor.untyped_storage().nbytes() for tensor in side.holds()))
    if cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        side.step()
        return held + torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        side.step()
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return held + most


# --- the file ---------------------------------------------------------------------------------


def read_cells(path: Path) -> dict[Key, Cell]:
    """The cells of a file, which may not exist; of two of one key the later."""
    cells = (Cell(Key(*row.pop("key")), **row) for row in rows(path))
    return {cell.key: cell for cell in cells}


def append_cell(path: Path, cell: Cell) -> None:
    """Add a cell to a file."""
    append(path, cell._asdict() | {"key": list(cell.key)})


# --- tables -----------------------------------------------------------------------------------


def time_limit(tasks: int) -> float:
    """The most that FIXED may cost in time."""
    return 1.05 if tasks <= 8 else 1.15


def memory_limit(tasks: int) -> float | None:
    """The most that FIXED may cost in memory; None: no limit."""
    return 1.2 if tasks <= 8 else None


def tables(cells: Sequence[Cell]) -> Iterator[Table]:
    """For each size of a batch, time and memory by network, side and number of tasks."""
    for batch in sorted({cell.key.batch for cell in cells}):
        mine = [cell for cell in cells if cell.key.batch == batch]
        counts = sorted({cell.key.tasks for cell in mine})
        made = Table(title=f"batch {batch}: time · peak memory, over the plain sum's")
        for title in ("network", "step"):
            made.add_column(title)
        for count in counts:
            made.add_column(f"K = {count}", justify="right")
        for network in dict.fromkeys(cell.key.network for cell in mine):
            by_count = {c.key.tasks: c for c in mine if c.key.network == network}
            for name in dict.fromkeys(n for c in by_count.values() for n in c.time):
                made.add_row(network, name, *(_figure(by_count.get(k), name) for k in counts))
            made.add_section()
        yield made


def markdown(results: Path) -> str:
    """Time and memory of FIXED over the plain sum's: a table for each size of a batch."""
    every = read_cells(results).values()
    cells = [cell for cell in every if (cell.key.device, cell.key.threads) == ("cpu", 1)]
    text = [
        "A step with the gradient ledger (`balance.kind` fixed) over a step with a plain weighted "
        "sum: time · peak memory, of CPU time of one thread. In brackets: one backward for each "
        "task over the plain sum, in time. *own without z* is a step that measures, which one step "
        "in `log.ledger_every` (20) is. The plain sum over itself, timed as a further side of each "
        f"cell, gives {_noise(cells)}."
    ]
    for batch in sorted({cell.key.batch for cell in cells}):
        mine = {(c.key.network, c.key.tasks): c for c in cells if c.key.batch == batch}
        counts = sorted({tasks for _, tasks in mine})
        heads = " | ".join(f"{count} tasks" for count in counts)
        text += ["", f"| network, batch {batch} | {heads} |", f"|---{'|---' * len(counts)}|"]
        for network in dict.fromkeys(name for name, _ in mine):
            each = " | ".join(_priced(mine.get((network, count))) for count in counts)
            text.append(f"| {network} | {each} |")
    return "\n".join(text)


def _noise(cells: Sequence[Cell]) -> str:
    """The range of what should be 1, without a twentieth of the cells on either side."""
    again = sorted(cell.time[AGAIN] for cell in cells)
    cut = len(again) // 20
    low, high = again[cut], again[-1 - cut]
    return f"{low:.3f} to {high:.3f} in nine cells of ten, {again[0]:.3f} to {again[-1]:.3f} in all"


def _priced(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    separate = f" [{cell.time[SEPARATE]:.2f}]" if SEPARATE in cell.time else ""
    return f"{cell.time[FIXED]:.3f} · {cell.memory[FIXED]:.2f}{separate}"


def _figure(cell: Cell | None, name: str) -> str:
    if cell is None or name not in cell.time:
        return ""
    if name == PLAIN:
        return f"{cell.plain_ms:.1f} ms · {cell.peak / 1e6:.1f} MB"
    return f"{cell.time[name]:.3f} · {cell.memory[name]:.2f}"


def beyond(cells: Sequence[Cell]) -> Iterator[str]:
    """A line for each cell in which FIXED costs more than its limit, with the cell's noise."""
    for cell in cells:
        at = f"{cell.key.network}, K = {cell.key.tasks}, batch {cell.key.batch}"
        most, noise = time_limit(cell.key.tasks), f"the plain sum again {cell.time[AGAIN]:.3f}"
        if cell.time[FIXED] > most:
            yield f"{at}: time {cell.time[FIXED]:.3f} > {most}; {noise}, {cell.rounds} rounds"
        limit = memory_limit(cell.key.tasks)
        if limit is not None and cell.memory[FIXED] > limit:
            yield f"{at}: memory {cell.memory[FIXED]:.2f} > {limit}"


def as_tensors(values: Any) -> list[Tensor]:
    """The tensors among values."""
    return [value for value in values if isinstance(value, Tensor)]
