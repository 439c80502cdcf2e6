"""One screen of a run: its progress as lines of text that fit a terminal of any size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from textwrap import wrap
from typing import NamedTuple

from rich.cells import cell_len
from rich.text import Text

from job.show.format import clock, counted, peculiarities, size
from job.show.glyphs import Viewport, progress_bar
from job.show.printable import printable
from job.show.progress import Progress
from job.show.task_table import task_table

ALARM_ROWS = 3
"""Alarms that are visible while the run goes on, the newest."""
NARROWEST = 20
SHORTEST_BAR, LONGEST_BAR = 4, 40


class PodCost(NamedTuple):
    """What a run's pods cost."""

    per_hour: float | None
    """USD, of the newest pod."""
    spent: float | None
    """USD so far, all pods."""
    deadline: datetime | None


class ScreenContext(NamedTuple):
    """What the screen shows beside the run's events."""

    now: datetime
    store: str = ""
    """Where the run is kept."""
    offline: float | None = None
    """Seconds for which the store has been out of reach."""
    cost: PodCost | None = None


def frame(run: Progress, view: Viewport, context: ScreenContext) -> list[Text]:
    """The screen's lines: none is wider than the view, and no more than its height, if any."""
    view = view._replace(width=max(NARROWEST, view.width))
    return [_printable_line(line) for line in _lines(run, view, context)]


def _printable_line(line: Text) -> Text:
    """The line as it is; as plain text if a string of the record has control characters."""
    return line if line.plain.isprintable() else Text(printable(line.plain))


def _lines(run: Progress, view: Viewport, context: ScreenContext) -> list[Text]:
    top, below = list(_header(run, view)), list(_state(run, view, context))
    if view.height is None:
        alarms = list(_alarms(run, view, len(run.alarms)))
        return [*top, *task_table(run, view, len(run.tasks)), *alarms, *below]
    below = below[: max(1, view.height // 3)]
    left = view.height - len(top) - len(below) - 1  # the table's header
    alarms = list(_alarms(run, view, min(ALARM_ROWS, max(0, left - 3))))
    return [*top, *task_table(run, view, left - len(alarms)), *alarms, *below][: view.height]


def _header(run: Progress, view: Viewport) -> Iterator[Text]:
    e = run.started
    if e is None:
        yield Text("waiting for the run to begin", "dim")
        return
    name = f"{e['name']} run {e['run_id']}"
    facts = ["control: targets permuted"] if e.get("control") else []
    facts += [f"{e['device']}, {counted(e['threads'], 'thread')}"]
    facts += [counted(e["samples"]["train"], "sample"), counted(e["parameters"], "parameter")]
    facts += peculiarities(e)
    first = next(_filled([name, *facts], view))
    first.stylize("bold", 0, len(name))
    yield first
    yield _progress(run, view)


def _progress(run: Progress, view: Viewport) -> Text:
    """Epoch, bar, steps, time left."""
    assert run.started is not None
    steps, whole = run.step_count, run.started["steps"]
    of = f" of {run.epoch_count}" if run.epoch_count else ""
    seconds = None if run.finished else run.seconds_left
    left = "" if seconds is None else f"{view.glyphs.dot}{clock(seconds)} left"
    before, share = f"epoch {run.epoch_number}{of} ", f" {steps / whole:.0%}"
    width_after = view.width - len(before)
    texts = [f" {steps:,}/{counted(whole, 'step')}{left}", share + left, share]
    after = next((text for text in texts if len(text) + SHORTEST_BAR <= width_after), share)
    width = min(LONGEST_BAR, width_after - len(after))
    done, rest = progress_bar(steps / whole, width, view.glyphs) if width > 3 else ("", "")
    line = Text.assemble(before, (done, "green"), (rest, "dim"), after)
    line.truncate(view.width)
    return line


def _alarms(run: Progress, view: Viewport, rows: int) -> Iterator[Text]:
    newest = list(run.alarms)[len(run.alarms) - min(rows, len(run.alarms)) :]
    for alarm in newest:
        text = " ".join(f"! step {alarm['step']:,}, {alarm['kind']}: {alarm['message']}".split())
        yield Text(_cut(text, view), "yellow")


def _state(run: Progress, view: Viewport, context: ScreenContext) -> Iterator[Text]:
    """What matters first: a store out of reach, speed, checkpoint, pod, gates, store."""
    if context.offline is not None:
        kept = "events are kept on this machine"
        text = f"store out of reach for {context.offline:.0f} s, {kept}: {context.store}"
        yield Text(_cut(text, view), "red")
    if run.started is not None:
        more = [counted(run.alarm_count, "alarm")] if run.alarm_count > ALARM_ROWS else []
        yield from _filled([*_speed(run), _checkpoint(run), *more], view)
    if context.cost is not None:
        yield from _filled(_cost(context.cost, context.now), view)
    if run.gates and not run.finished:  # the verdict has them all
        yield _gates(run, view)
    if context.store and context.offline is None:
        yield Text(_cut(f"store {context.store}", view))


def _gates(run: Progress, view: Viewport) -> Text:
    """The gates that have been read."""
    failed = [name for name, gate in run.gates.items() if not gate["passed"]]
    text = f"gates: {len(run.gates) - len(failed)} passed"
    text += f", {len(failed)} failed: {'; '.join(failed)}" if failed else ""
    return Text(_cut(text, view), "red" if failed else "green")


def _cut(text: str, view: Viewport) -> str:
    """The text, cut if lines are counted; the last screen stays in the scrollback, whole."""
    return text if view.height is None else view.cut(text)


def _speed(run: Progress) -> Iterator[str]:
    if run.step is not None:
        yield f"step {run.step['step_ms'] or 0:.3g} ms"
    if run.epoch is not None and run.epoch["samples_per_second"] is not None:
        yield f"{run.epoch['samples_per_second']:,.0f} samples/s"


def _checkpoint(run: Progress) -> str:
    if run.saved is None:
        return "no checkpoint yet"
    behind = run.step_count - run.saved["step"]
    late = f", {counted(behind, 'step')} ago" if behind > 0 else ""
    return f"checkpoint at step {run.saved['step']:,}{late}, {size(run.saved['size'])}"


def _cost(cost: PodCost, now: datetime) -> Iterator[str]:
    if cost.per_hour is not None:
        yield f"pod ${cost.per_hour:g}/h"
    if cost.spent is not None:
        yield f"spent ${cost.spent:.2f}"
    if cost.deadline is not None:
        left = (cost.deadline - now).total_seconds()
        time_left = f", in {clock(left)}" if left > 0 else ""
        yield f"deadline {cost.deadline:%H:%M:%S} UTC{time_left}"


def _filled(facts: Iterable[str], view: Viewport) -> Iterator[Text]:
    """Facts side by side, in as few lines as hold them; one that is too long is broken."""
    line = ""
    for fact in facts:
        longer = f"{line}{view.glyphs.dot}{fact}" if line else fact
        if line and cell_len(longer) > view.width:
            yield Text(line)
            longer = fact
        *over, line = wrap(longer, view.width) or [""]
        yield from map(Text, over)
    if line:
        yield Text(line)
