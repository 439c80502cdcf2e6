"""The tables of the results."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

BARE, AGAIN, OURS = "bare loop", "bare loop, again", "evengrad"
KEPT = "bare loop, memory kept"
ABOUT = f"""\
*{OURS}* is a whole job with ledger, events, metrics, alarms, report and checkpoints, the others \
steps, validation and checkpoints. *Of the bare loop*: samples per second over those of the bare \
loop in the same round. *{AGAIN}* shows what is noise. On Linux a job tells glibc to keep freed \
memory for the next step; *{KEPT}* is a bare loop in an environment that says so too, and *of it, \
memory kept* the ratio to that one. transformers has an interpreter of its own: `--hf` names it."""
Result = Mapping[str, Any]
"""A line of `results/speed.jsonl`: a side in a round."""


def markdown(path: Path) -> str:
    """What the columns mean, and a table for each network and number of tasks, in Markdown."""
    from tests.bench.header import rows  # not above: the sides import this package, and no torch

    results: list[Result] = list(rows(path))
    cases: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        cases.setdefault((result["network"], result["tasks"]), []).append(result)
    return "\n\n".join((ABOUT, *(_table(*case, each) for case, each in sorted(cases.items()))))


def _table(network: str, tasks: int, results: list[Result]) -> str:
    rounds: dict[int, dict[str, Result]] = {}
    for result in results:
        rounds.setdefault(result["round"], {})[result["side"]] = result
    whole = [by_side for by_side in rounds.values() if BARE in by_side]
    sides = dict.fromkeys(r["side"] for r in results)
    counts = sorted({sum(side in by_side for by_side in whole) for side in sides})
    about = results[0]
    lines = [
        f"`{network}`, {tasks} tasks: {about['samples']:,} training samples, {about['epochs']} "
        f"epochs, batch {about['batch']}, medians of {' or '.join(map(str, counts))} rounds, "
        f"torch {about['torch']}",
        "",
        "| side | samples/s | of the bare loop (least … most) | of it, memory kept | until step 1 "
        "| whole job | memory | validation loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(side, whole) for side in sides]
    return "\n".join(lines)


def _row(side: str, rounds: list[dict[str, Result]]) -> str:
    there = [by_side for by_side in rounds if side in by_side]

    def median(value: Callable[[Result], float]) -> float:
        return statistics.median(value(by_side[side]) for by_side in there)

    def over(other: str) -> list[float]:
        """The side's samples per second over another's of the same round."""
        both = [by_side for by_side in there if other in by_side]
        return [by_side[other]["training"] / by_side[side]["training"] for by_side in both]

    ratios, kept = over(BARE), over(KEPT)
    cells = [
        f"{median(lambda r: r['samples'] * r['epochs'] / r['training']):,.0f}",
        f"{statistics.median(ratios):.3f} ({min(ratios):.2f} … {max(ratios):.2f})",
        f"{statistics.median(kept):.3f}" if kept else "–",
        f"{median(lambda r: r['first_step']):.1f} s",
        f"{median(lambda r: r['whole']):.1f} s",
        f"{median(lambda r: r['memory']) / 1e6:,.0f} MB",
        f"{median(lambda r: r['loss']):.3f}",
    ]
    return f"| {side} | {' | '.join(cells)} |"
