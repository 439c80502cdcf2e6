"""The live screen of a run at the lower end of a terminal, painted anew as its events come.

No thread, no alternate screen, and the cursor is never hidden: however the process ends, killed
too, the terminal is as it should be.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TextIO

from rich.console import Console, Group
from rich.control import Control
from rich.live_render import LiveRender
from rich.segment import ControlType
from rich.text import Text

from job.frame import Beside, Rent, frame
from job.glyphs import Room
from job.journal import Line
from job.progress import Progress
from job.screen import Screen
from job.show import Readable

PAUSE = 0.25
"""Seconds between two paintings, at least."""
SHARE = 0.005
"""Of the time that may go into painting: one that took long is followed by a longer pause."""
ERASE_LINE = (ControlType.ERASE_IN_LINE, 2)
STREAMS = ("stdout", "stderr")


def shown(console: Console | None = None) -> Live | Readable:
    """The sink for a person: the screen where it can be painted, else lines."""
    console = console or Screen()
    try:
        terminal = console.file.isatty() and console.is_terminal
    except ValueError:  # closed
        terminal = False
    return Live(console) if terminal and not console.is_dumb_terminal else Readable(console)


class Live:
    """Sink that shows a run's events as one screen, and the verdict below it at the end."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress()
        self.store = ""
        """Where the run is kept."""
        self.offline: Callable[[], float | None] = lambda: None
        """Seconds for which the store has been out of reach."""
        self.rent: Callable[[], Rent | None] = lambda: None
        """What its pods cost."""
        self.past: Callable[[int], Sequence[Line]] = lambda _: ()
        """What was told before a resume, where this screen has not seen it; given its step."""
        self._below = LiveRender("", vertical_overflow="visible")
        self._open = self._painting = False
        self._lock = threading.RLock()
        self._due = 0.0
        self._width = 0
        """At the last painting."""
        self._above: dict[str, _Above] = {}
        """In place of what stream."""
        self._resized: Any = None
        """The handler that was there before."""

    def __call__(self, event: Line, _: str) -> None:
        """Take in one event, and paint if it is time."""
        self.progress.take(event)
        if event["event"] == "run.started":
            for earlier in self.past(event["resumed_from"]) if "resumed_from" in event else ():
                self.progress.take(earlier)
            self._begin()
        elif event["event"] == "run.finished":
            self.close()
            Readable(self.console).conclude(self.progress.started, self.progress.epoch, event)
        elif self._open and time.monotonic() >= self._due:
            self.paint()

    def say(self, text: str) -> None:
        """Print a line that is no event's, below the screen, which ends."""
        self.close()
        Readable(self.console).say(text)

    def tick(self) -> None:
        """Time has passed: paint if it is time."""
        if self._open and time.monotonic() >= self._due:
            self.paint()

    def paint(self) -> None:
        """Paint now, unless a painting is under way; safe in a signal's handler."""
        if not self._open or not self._lock.acquire(blocking=False):
            return
        try:
            if not self._painting:
                begun = time.monotonic()
                self._repaint(max(1, self.console.size.height - 1))
                took = time.monotonic() - begun
                self._due = begun + max(PAUSE, took / SHARE)
        finally:
            self._lock.release()

    def put_above(self, text: str) -> bool:
        """Print lines above the screen; False where none is shown."""
        with self._lock:
            if not self._open or self._painting:
                return False
            self._put(Text.from_ansi(text))
            return True

    def close(self) -> None:
        """Leave the screen as it is, whole, and give the terminal back; harmless twice."""
        with self._lock:
            if self._open:
                self._repaint(None)
                self._open = False
                self._put_back()

    # --- painting -----------------------------------------------------------------------------

    def _repaint(self, height: int | None) -> None:
        room = Room(self.console.width - 1, height, not self.console.options.ascii_only)
        now = datetime.now(UTC)
        beside = Beside(now, self.store, self.offline(), self.rent())
        self._below.set_renderable(Group(*frame(self.progress, room, beside)))
        self._put()

    def _put(self, *above: Text) -> None:
        """What stands above, then the screen, in one write, where the last one was."""
        self._painting = True
        try:
            with self.console:
                self._go_back()
                for text in above:
                    self.console.print(text, soft_wrap=True)
                self.console.print(self._below)
                self.console.line()  # where a ^C is shown, and goes
        except OSError:  # the terminal is gone; the run goes on
            self.console.quiet = True
        finally:
            self._painting = False

    def _go_back(self) -> None:
        """To where the screen begins.

        In a terminal that has become narrower, lines may have been broken anew, and nobody knows
        where it begins: then what is visible goes up into the scrollback, whole.
        """
        width, before = self.console.width, self._width
        self._width = width
        if width < before:
            self.console.print("\n" * self.console.size.height, end="")
            self.console.control(Control.home())
        else:
            self.console.control(Control(ControlType.CARRIAGE_RETURN, ERASE_LINE))
            self.console.control(self._below.restore_cursor())

    # --- the terminal -------------------------------------------------------------------------

    def _begin(self) -> None:
        """Take the lower end of the terminal; what others print goes above."""
        if not self._open:
            self._below = LiveRender("", vertical_overflow="visible")
            self._width = self.console.width
            for name in STREAMS:
                stream = getattr(sys, name)
                if not isinstance(stream, _Above) and stream.isatty():
                    self._above[name] = _Above(self, stream)
                    setattr(sys, name, self._above[name])
            with suppress(ValueError):  # not in the main thread
                self._resized = signal.signal(signal.SIGWINCH, lambda *_: self.paint())
            self._open = True
        self.paint()

    def _put_back(self) -> None:
        for name, above in self._above.items():
            if getattr(sys, name) is above:
                setattr(sys, name, above.rich_proxied_file)
            above.finish()
        self._above.clear()
        with suppress(ValueError):
            signal.signal(signal.SIGWINCH, self._resized or signal.SIG_DFL)


class _Above:
    """In place of stdout or stderr: what is printed appears above the screen, by whole lines."""

    def __init__(self, screen: Live, stream: TextIO) -> None:
        self.rich_proxied_file = stream  # so rich's Console finds the real one
        self._screen, self._waiting = screen, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)

    def write(self, text: str) -> int:
        """Print the lines that have their end."""
        *lines, self._waiting = (self._waiting + text).split("\n")
        if lines and not self._screen.put_above("\n".join(lines)):
            self.rich_proxied_file.write("".join(f"{line}\n" for line in lines))
        return len(text)

    def finish(self) -> None:
        """Print what waits."""
        self.rich_proxied_file.write(self._waiting)
        self._waiting = ""
