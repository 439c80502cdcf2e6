"""The pictures of docs/diagnosis/: what a fault does, from real runs of scikit-learn's data.

Each shows a run with the fault and its mended twin. `make pictures`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from job.diagnose.inside.look import activity
from job.diagnose.probe import Probe, probe
from job.train.trainer import Trainer
from tests.support.command import ROOT
from tests.support.network_problems import FAULTS
from tests.support.shown_causes import PAIRS, probe_of, training_for

FOLDER = ROOT / "docs" / "pictures" / "diagnosis"
WIDTH, HEIGHT = 520, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 96, 34, 36
FAULTY, MENDED, GREY = "#c2410c", "#1d4ed8", "#6b7280"
LOWEST = -0.3
"""Skill below which a curve is cut off."""

# --- drawing --------------------------------------------------------------------------------------


def svg(title: str, parts: Sequence[str], vertical: str, across: str) -> str:
    """A picture with a title and names of its axes."""
    inner = "\n".join(parts)
    font = 'font-family="system-ui, sans-serif" font-size="12"'
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {font}>
<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>
<text x="{LEFT}" y="18" font-weight="600" fill="#111827">{title}</text>
{inner}
<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle" \
fill="{GREY}">{across}</text>
<text x="14" y="{(TOP + HEIGHT - BOTTOM) / 2:.0f}" text-anchor="middle" fill="{GREY}" \
transform="rotate(-90 14 {(TOP + HEIGHT - BOTTOM) / 2:.0f})">{vertical}</text>
</svg>
"""


def curves(task: str, faulty: Probe, mended: Probe) -> str:
    """A task's validation skill over the steps of both runs."""
    last = max(each.evaluations[-1].step for each in (faulty, mended))

    def x(step: float) -> float:
        return LEFT + step / last * (WIDTH - LEFT - RIGHT)

    def y(skill: float) -> float:
        part = (min(max(skill, LOWEST), 1.0) - LOWEST) / (1 - LOWEST)
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    parts = [*_grid(y), *_steps(x, last)]
    ends = []
    for run, colour, name in ((faulty, FAULTY, "with the fault"), (mended, MENDED, "mended")):
        skills = [
            (each.step, 1 - loss / run.trivial(task, "validation"))
            for each, loss in zip(run.evaluations, run.losses(task, "validation"), strict=True)
        ]
        finite = [each for each in skills if np.isfinite(each[1])]
        points = " ".join(f"{x(step):.1f},{y(skill):.1f}" for step, skill in finite)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        step, skill = finite[-1] if finite else (0, -math.inf)
        value = f"{skill:.0%}" if skill > -10 else "far below 0"
        ends.append((y(skill), x(step), colour, name, value))
    parts += _labels(ends)
    return svg(f"validation skill of “{task}”", parts, "skill", "steps")


def _labels(ends: Sequence[tuple[float, float, str, str, str]]) -> Iterator[str]:
    """The names of the curves at their ends, apart from each other."""
    high, low = sorted(ends)
    gap = max(0.0, 30 - (low[0] - high[0])) / 2
    for (at, x, colour, name, value), moved in ((high, -gap), (low, gap)):
        place = min(max(at + moved, TOP + 8), HEIGHT - BOTTOM - 14)
        yield f'<text x="{x + 6:.0f}" y="{place:.0f}" fill="{colour}">{name}</text>'
        yield f'<text x="{x + 6:.0f}" y="{place + 14:.0f}" fill="{colour}">{value}</text>'


def _grid(y: Callable[[float], float]) -> Iterator[str]:
    for skill, name in ((0.0, "0"), (0.5, "50%"), (1.0, "100%")):
        dash = "" if skill else ' stroke-dasharray="4 3"'
        yield (
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(skill):.1f}" y2="{y(skill):.1f}" '
            f'stroke="#d1d5db"{dash}/>'
        )
        yield _mark(y(skill), name)
    yield f'<text x="{LEFT + 4}" y="{y(0) + 14:.1f}" fill="{GREY}">no better than a constant</text>'


def _mark(y: float, name: str) -> str:
    """A number beside the vertical axis."""
    return f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="{GREY}">{name}</text>'


def _steps(x: Callable[[float], float], last: int) -> Iterator[str]:
    for step in (0, last // 2, last):
        yield (
            f'<text x="{x(step):.0f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" '
            f'fill="{GREY}">{step}</text>'
        )


def layers(title: str, faulty: Sequence[float], mended: Sequence[float], vertical: str) -> str:
    """A number of each layer in both networks, on a logarithmic scale if they differ much."""
    values = [v for v in (*faulty, *mended) if v > 0]
    wide = max(values) / min(values) > 100
    low = np.floor(np.log10(min(values))) if wide else 0.0
    high = np.ceil(np.log10(max(values))) if wide else max(values)

    def y(value: float) -> float:
        at = np.log10(max(value, 10**low)) if wide else value
        return float(HEIGHT - BOTTOM - (at - low) / (high - low) * (HEIGHT - TOP - BOTTOM))

    count = max(len(faulty), len(mended))
    step = (WIDTH - LEFT - RIGHT) / count
    floor = y(10**low if wide else 0)
    parts = [
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor:.1f}" y2="{floor:.1f}" '
        f'stroke="#9ca3af"/>'
    ]
    for end in (low, high):
        parts.append(_mark(y(10**end if wide else end), f"{10.0**end:g}" if wide else f"{end:.0%}"))
    for k, (each, colour) in enumerate(((faulty, FAULTY), (mended, MENDED))):
        for i, value in enumerate(each):
            top = y(value)
            left = LEFT + (i + 0.15 + 0.35 * k) * step
            parts.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{0.35 * step:.1f}" '
                f'height="{max(HEIGHT - BOTTOM - top, 1.0):.1f}" fill="{colour}"/>'
            )
    for k, (name, colour) in enumerate((("with the fault", FAULTY), ("mended", MENDED))):
        parts.append(
            f'<text x="{WIDTH - RIGHT + 6}" y="{TOP + 14 + 16 * k}" fill="{colour}">{name}</text>'
        )
    return svg(title, parts, vertical, "layers, from the inputs to the outputs")


def _fired(training: Trainer) -> list[float]:
    return [1 - relu.dead for relu in probe(training).at_end.relus]


def _signal(training: Trainer) -> list[float]:
    """How far samples differ at each layer with weights, over the size of what it makes."""
    layers = probe(training).at_end.signals.layers
    seen = [each for each in layers if each.gradients and each.feeds]
    return [each.signal / each.size if each.size else 0.0 for each in seen]


def _size(training: Trainer) -> list[float]:
    layers = activity(training).signals.layers
    return [each.size for each in layers if each.gradients and each.feeds]


BARS: dict[str, tuple[str, str, str, Callable[[Trainer], list[float]]]] = {
    "dead_units": ("dead from the start", "units that fire for some sample", "share", _fired),
    "vanishing": ("deep sigmoids", "how far samples differ at each layer", "of its size", _signal),
    "exploding": ("huge start", "size of what each layer makes", "root mean square", _size),
}
"""By cause: the fault, the title, the vertical axis and what is drawn of each layer."""


def drawn(cause: str) -> str:
    """The picture of a cause."""
    if cause in BARS:
        fault, title, vertical, measure = BARS[cause]
        pair = [training_for(each) for each in (FAULTS[fault].faulty, FAULTS[fault].repaired)]
        return layers(title, measure(pair[0]), measure(pair[1]), vertical)
    task, faulty, mended = PAIRS[cause]
    return curves(task, probe_of(faulty), probe_of(mended))


def main() -> None:
    """Draw all pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for cause in (*PAIRS, *BARS):
        path = FOLDER / f"{cause.replace('_', '-')}.svg"
        path.write_text(drawn(cause), "utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
