"""How a run's numbers are written, on the screen and in every text: one way for each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from job.spec.tasks import METRICS

if TYPE_CHECKING:
    from job.events.log import Line


def format_number(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits; nan for None, which records have for it."""
    return "nan" if value is None else f"{value:.{digits}g}"


def format_percent(value: float | None, digits: int = 1) -> str:
    """A share in percent with so many decimals; nan for None, which records have for it.

    A share below 1 gets up to 3 decimals rather than be rounded to 100%.
    """
    if value is None or not math.isfinite(value):
        return format_number(value)
    while digits < 3 and abs(value) < 1 and abs(float(f"{100 * value:.{digits}f}")) >= 100:
        digits += 1
    return f"{value:.{digits}%}"


def format_metric(name: str, value: float | None, unit: str) -> str:
    """A metric with its value, `mae 3.42 bars`; a dash for one that has none.

    unit: of the task's target.
    """
    known = METRICS.get(name)  # a newer version may have others
    suffix = f" {unit}" if known and known.has_unit and unit else ""
    return f"{name} -" if value is None else f"{name} {format_number(value)}{suffix}"


def format_spread(mean: float | None, sd: float | None, as_percent: bool) -> str:
    """Mean ± standard deviation, `63.3 ± 1.2%`; a dash if there is no mean."""
    if mean is None:
        return "-"
    scale, form, unit = (100, ".1f", "%") if as_percent else (1, ".3g", "")
    around = "" if sd is None else f" ± {sd * scale:{form}}"
    return f"{mean * scale:{form}}{around}{unit}"


def number(record: Line, name: str, digits: int = 4) -> str:
    """A record's number; nan if it was not finite, a dash if the record lacks it."""
    return format_number(record[name], digits) if name in record else "-"


def percent(record: Line, name: str, digits: int = 1) -> str:
    """A record's share in percent; nan if it was not finite, a dash if the record lacks it."""
    return format_percent(record[name], digits) if name in record else "-"


def percent_with_error(record: Line, name: str, error: str) -> str:
    """A record's share in percent with its standard error: `27.1 ± 5.8%`."""
    share, around = percent(record, name), record.get(error)
    return share if around is None else f"{share.removesuffix('%')} ± {100 * around:.1f}%"


def measurement(gate: Line) -> str:
    """What a gate has measured, in its unit, with its error or with what of it is trivial."""
    if gate["unit"] != "share":
        return number(gate, "measured")
    trivial = f" ({percent(gate, 'trivial')} trivial)" if "trivial" in gate else ""
    return percent_with_error(gate, "measured", "error") + trivial


def counted(count: int, noun: str) -> str:
    """A count with its noun: `1 step`, `1,260 steps`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shape(started: Line) -> str:
    """Of a sample: `105 x 12`, or of named inputs `image 36 x 36 x 1, hour 1 x 1`."""
    inputs = started.get("inputs") or {"": started["features"]}
    return ", ".join(f"{name} {' x '.join(map(str, of))}".strip() for name, of in inputs.items())


def peculiarities(started: Line) -> list[str]:
    """What is not so in every run: another run's network, a batch in parts, a compiler.

    `batch 256: 4 parts of 64 on 2 ranks`; older records lack parts and ranks.
    """
    origin = started.get("origin")
    begun = ""
    if origin is not None and origin["kind"] == "start_from":  # `--extend` says it itself
        begun = f"begins with {origin['run']} at step {origin['step']:,}"
    whole, parts, ranks = (started.get(key, 1) for key in ("effective_batch", "parts", "ranks"))
    of = f"{parts} parts of {whole // parts:,}" if parts > 1 else ""
    on = f"on {ranks} ranks" if ranks > 1 else ""
    how = " ".join(filter(None, (of, on)))
    seconds = started.get("compile_seconds")
    compiled = "" if seconds is None else f"compiled in {seconds:.1f} s"
    return list(filter(None, (begun, how and f"batch {whole:,}: {how}", compiled)))


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: `1:02:03`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


def size(count: float) -> str:
    """A number of bytes: `378 kB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def loss_label(task: str, setup: Line) -> str:
    """A task's name with the unit of its loss, if the record has one."""
    unit = setup.get("loss_unit")
    return f"{task}, {unit}" if unit else task
