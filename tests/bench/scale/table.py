"""The results as tables in Markdown."""

from __future__ import annotations

from pathlib import Path

from tests.bench import header
from tests.bench.scale.growth import growth
from tests.bench.scale.sweep import Quantity, quantities

LEAST_MEMORY = 8e6
"""Bytes below which the growth of memory is that of the allocator."""
UNITS = {"seconds": "processor", "memory": "memory added", "bytes": "bytes", "count": "keys listed"}
RANKS = "ranks"


def markdown(results: Path) -> str:
    """The tables of a results file: growth by axis, then ranks."""
    found = {(r["axis"], r["quantity"], r["size"]): r["costs"] for r in header.rows(results)}
    lines = [
        "| against | quantity | cost | sizes | cost at each | exponent | last | grows |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for quantity in quantities():
        key = (quantity.axis, quantity.name)
        measured = {n: found[*key, n] for n in quantity.sizes if (*key, n) in found}
        for unit in UNITS:
            costs = {n: each[unit] for n, each in measured.items() if unit in each}
            if costs:
                lines.append(_row(quantity, unit, costs))
    return "\n".join(lines + _ranks(found))


def _row(quantity: Quantity, unit: str, costs: dict[int, float]) -> str:
    sizes, values = list(costs), list(costs.values())
    cells = [quantity.axis, quantity.name, UNITS[unit], ", ".join(map(_short, sizes))]
    cells.append(", ".join(_value(unit, value) for value in values))
    small = unit == "memory" and max(values) < LEAST_MEMORY
    found = None if small else growth(sizes, values)
    if found is None:
        cells += ["", "", "too little to grow" if small else ""]
    else:
        work = quantity.work[unit]
        verdict = "**faster than the work**" if found.faster_than(work) else "as the work"
        cells += [f"{found.exponent:.2f} ± {found.error:.2f}", f"{found.last:.2f}", verdict]
    return f"| {' | '.join(cells)} |"


def _ranks(found: dict[tuple[str, str, int], dict[str, float]]) -> list[str]:
    """A table of two ranks beside one; no lines without results."""
    rows = [
        f"| {batch} | {each['one']:,.0f} | {each['two']:,.0f} | {each['two'] / each['one']:.2f} | "
        f"{each['two'] / each['one'] / 2:.0%} |"
        for (axis, _, batch), each in found.items()
        if axis == RANKS
    ]
    head = "| batch | samples/s, one process | two processes | ratio | efficiency |"
    return ["", head, "|---|---|---|---|---|", *rows] if rows else []


def _short(size: int) -> str:
    return f"{size // 1000}k" if size >= 1000 and size % 1000 == 0 else str(size)


def _value(unit: str, value: float) -> str:
    if unit == "seconds":
        scale, name = (1e6, "µs") if value < 1e-3 else (1e3, "ms") if value < 1 else (1, "s")
        return f"{value * scale:.3g} {name}"
    if unit == "count":
        return f"{value:.0f}"
    return f"{value:.0f} B" if value < 1e4 else f"{value / 1e6:.3g} MB"
