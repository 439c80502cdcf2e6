"""One screen of a run: its progress as lines of text that fit a terminal of any size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from textwrap import wrap
from typing import NamedTuple

from rich.cells import cell_len
from rich.text import Text

from job.figures import clock, counted, size
from job.glyphs import Room, progress
from job.progress import Progress
from job.task_table import table

ALARM_ROWS = 3
"""Alarms that are shown while the run goes on, the newest."""
NARROWEST = 20
SHORTEST_BAR, LONGEST_BAR = 4, 40


class Rent(NamedTuple):
    """What a run's pods cost."""

    per_hour: float | None
    """USD, of the newest pod."""
    spent: float | None
    """USD so far, all pods."""
    deadline: datetime | None


class Beside(NamedTuple):
    """What no event tells."""

    now: datetime
    store: str = ""
    """Where the run is kept."""
    offline: float | None = None
    """Seconds for which the store has been out of reach."""
    rent: Rent | None = None


def frame(run: Progress, room: Room, beside: Beside) -> list[Text]:
    """The screen's lines, none wider than the room and, where it is limited, no more than fit."""
    room = room._replace(width=max(NARROWEST, room.width))
    top, below = list(_head(run, room)), list(_state(run, room, beside))
    if room.height is None:
        alarms = list(_alarms(run, room, len(run.alarms)))
        return [*top, *table(run, room, len(run.tasks)), *alarms, *below]
    below = below[: max(1, room.height // 3)]
    left = room.height - len(top) - len(below) - 1  # the table's head
    alarms = list(_alarms(run, room, min(ALARM_ROWS, max(0, left - 3))))
    return [*top, *table(run, room, left - len(alarms)), *alarms, *below][: room.height]


def _head(run: Progress, room: Room) -> Iterator[Text]:
    e = run.started
    if e is None:
        yield Text("waiting for the run to begin", "dim")
        return
    name = f"{e['name']} run {e['run_id']}"
    facts = [f"{e['device']}, {counted(e['threads'], 'thread')}"]
    facts += [counted(e["samples"]["train"], "sample"), counted(e["parameters"], "parameter")]
    first = next(_filled([name, *facts], room))
    first.stylize("bold", 0, len(name))
    yield first
    yield _progress(run, room)


def _progress(run: Progress, room: Room) -> Text:
    """Epoch, bar, steps, time left."""
    assert run.started is not None
    steps, whole = run.step_count, run.started["steps"]
    of = f" of {run.epoch_count}" if run.epoch_count else ""
    seconds = None if run.finished else run.seconds_left
    left = "" if seconds is None else f"{room.glyphs.dot}{clock(seconds)} left"
    before, share = f"epoch {run.epoch_number}{of} ", f" {steps / whole:.0%}"
    room_after = room.width - len(before)
    told = [f" {steps:,}/{counted(whole, 'step')}{left}", share + left, share]
    after = next((text for text in told if len(text) + SHORTEST_BAR <= room_after), share)
    width = min(LONGEST_BAR, room_after - len(after))
    done, rest = progress(steps / whole, width, room.glyphs) if width > 3 else ("", "")
    line = Text.assemble(before, (done, "green"), (rest, "dim"), after)
    line.truncate(room.width)
    return line


def _alarms(run: Progress, room: Room, rows: int) -> Iterator[Text]:
    shown = list(run.alarms)[len(run.alarms) - min(rows, len(run.alarms)) :]
    for alarm in shown:
        text = " ".join(f"! step {alarm['step']:,}, {alarm['kind']}: {alarm['message']}".split())
        yield Text(_whole(text, room), "yellow")


def _state(run: Progress, room: Room, beside: Beside) -> Iterator[Text]:
    """What matters first: an absent store, speed, checkpoint, pod, gates, store."""
    if beside.offline is not None:
        text = f"store out of reach for {beside.offline:.0f} s, events wait here: {beside.store}"
        yield Text(_whole(text, room), "red")
    if run.started is not None:
        more = [counted(run.alarm_count, "alarm")] if run.alarm_count > ALARM_ROWS else []
        yield from _filled([*_speed(run), _checkpoint(run), *more], room)
    if beside.rent is not None:
        yield from _filled(_money(beside.rent, beside.now), room)
    if run.gates and not run.finished:  # the verdict tells them all
        yield _gates(run, room)
    if beside.store and beside.offline is None:
        yield Text(_whole(f"store {beside.store}", room))


def _gates(run: Progress, room: Room) -> Text:
    """Those that have been read."""
    failed = [name for name, gate in run.gates.items() if not gate["passed"]]
    text = f"gates: {len(run.gates) - len(failed)} passed"
    text += f", {len(failed)} failed: {'; '.join(failed)}" if failed else ""
    return Text(_whole(text, room), "red" if failed else "green")


def _whole(text: str, room: Room) -> str:
    """Cut only where lines are counted: the last screen stays in the scrollback."""
    return text if room.height is None else room.cut(text)


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


def _money(rent: Rent, now: datetime) -> Iterator[str]:
    if rent.per_hour is not None:
        yield f"pod ${rent.per_hour:g}/h"
    if rent.spent is not None:
        yield f"spent ${rent.spent:.2f}"
    if rent.deadline is not None:
        left = (rent.deadline - now).total_seconds()
        yield f"until {rent.deadline:%H:%M:%S} UTC" + (f", in {clock(left)}" if left > 0 else "")


def _filled(facts: Iterable[str], room: Room) -> Iterator[Text]:
    """Facts side by side, in as many lines as they take; one that is too long is broken."""
    line = ""
    for fact in facts:
        longer = f"{line}{room.glyphs.dot}{fact}" if line else fact
        if line and cell_len(longer) > room.width:
            yield Text(line)
            longer = fact
        *over, line = wrap(longer, room.width) or [""]
        yield from map(Text, over)
    if line:
        yield Text(line)
