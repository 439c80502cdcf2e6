"""The results in markdown: a row for each side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from tests.bench.header import rows
from tests.bench.survival.campaign import Outcome
from tests.bench.survival.problem import BATCH, EPOCHS, STEPS
from tests.bench.survival.training import SIDES
from tests.bench.survival.witness import PACE


def read_outcomes(results: Path) -> list[Outcome]:
    """What a results file holds; nothing if there is none."""
    return [Outcome(**row) for row in rows(results)]


def markdown(results: Path) -> str:
    """The table, under what its columns mean."""
    found = read_outcomes(results)
    every = sorted({o.kill for o in found if o.kill != "writing"})
    seeds = len({o.seed for o in found})
    lines = [
        f"A training of {STEPS} steps in {EPOCHS} epochs, batches of {BATCH}, each step at least "
        f"{PACE} s long, killed after random numbers of steps (means {_joined(every)}; "
        f"{seeds} seed{'s' * (seeds > 1)}) and started again at once. *Useful*: steps that the "
        "training needs over steps that it took. *Lost*: CPU seconds that a kill costs, the new "
        "start among them (median). *Weights*: at the end, against the same side undisturbed. "
        "*Samples*: what the epochs behind these weights saw twice, and did not see. *While "
        "writing*: after one kill in the midst of a checkpoint.",
        "",
        f"| side | useful, % (a kill every {_joined(every)}) | lost, s | weights | "
        "samples twice · not | while writing |",
        "|---|---|---|---|---|---|",
    ]
    for side in SIDES:
        mine = [o for o in found if o.side == side]
        if mine:
            killed = [[o for o in mine if o.kill == kill] for kill in every]
            lines.append(f"| {side} | {' | '.join(_cells(mine, killed))} |")
    return "\n".join(lines)


def _joined(values: Sequence[object]) -> str:
    return " · ".join(map(str, values))


def _cells(mine: Sequence[Outcome], killed: Sequence[Sequence[Outcome]]) -> list[str]:
    flat = [o for each in killed for o in each]
    lost = [(o.seconds - o.undisturbed) / o.kills for o in flat if o.kills and not o.error]
    ended = [o for o in mine if o.error is None]
    twice, none = (
        max((getattr(o, name) for o in ended), default=0) for name in ("repeated", "skipped")
    )
    return [
        _joined([_useful(each) for each in killed]),
        f"{statistics.median(lost):.1f}" if lost else "–",
        _weights(ended),
        f"{twice} · {none}" if ended else "–",
        "; ".join(dict.fromkeys(_torn(o) for o in mine if o.kill == "writing")) or "–",
    ]


def _useful(same: Sequence[Outcome]) -> str:
    """The mean share of useful steps, in %."""
    if any(o.error for o in same):
        return f"{sum(o.error is None for o in same)} of {len(same)} end"
    return f"{100 * statistics.fmean(o.needed / o.done for o in same):.0f}" if same else "–"


def _weights(ended: Sequence[Outcome]) -> str:
    if len({o.digest for o in ended}) > 1:
        return "differ without kills too"
    if all(o.identical for o in ended):
        return "identical" if ended else "–"
    return f"differ by up to {max(o.difference or 0 for o in ended):.2g}"


def _torn(one: Outcome) -> str:
    if one.error is not None:
        return f"does not start again: `{one.error}`"
    return f"goes on, {one.done - one.needed} steps again"
