"""The live screen of a run at the lower end of a terminal, repainted as its events come.

No thread, no alternate screen, and the cursor is never hidden: however the process ends, even if
it is killed, the terminal is as it was.
"""

from __future__ import annotations

import math
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

from job.events.log import Line
from job.show.console import Screen
from job.show.frame import PodCost, ScreenContext, frame
from job.show.glyphs import Viewport
from job.show.lines import Readable
from job.show.progress import Progress

PAUSE = 0.25
"""Least seconds between two paintings."""
SHARE = 0.005
"""Share of the time that painting may take: a slow painting is followed by a longer pause."""
ERASE_LINE = (ControlType.ERASE_IN_LINE, 2)
STREAMS = ("stdout", "stderr")


def make_display(console: Console | None = None) -> Live | Readable:
    """The sink for a person: the live screen if the terminal can paint it, else lines."""
    console = console or Screen()
    try:
        terminal = console.file.isatty() and console.is_terminal
    except ValueError:  # closed
        terminal = False
    return Live(console) if terminal and not console.is_dumb_terminal else Readable(console)


class Live:
    """Sink that displays a run's events as one screen, and prints the verdict below it."""

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        """now: the clock that says when the next painting is due, in seconds."""
        self.console = console
        self.progress = Progress()
        self.store = ""
        """Where the run is kept."""
        self.offline: Callable[[], float | None] = lambda: None
        """Seconds for which the store has been out of reach."""
        self.cost: Callable[[], PodCost | None] = lambda: None
        """What its pods cost."""
        self.earlier_events: Callable[[int], Sequence[Line]] = lambda _: ()
        """Events before a resume after a step, if this screen has not received them."""
        self._now = now
        self._below = LiveRender("", vertical_overflow="visible")
        self._open = self._painting = False
        self._lock = threading.RLock()
        self._due = -math.inf
        """When the next painting is due, by the clock."""
        self._width = 0
        """Of the terminal at the last painting."""
        self._above: dict[str, _Above] = {}
        """By the name of the stream that it replaces."""
        self._resize_handler: Any = None
        """SIGWINCH's handler before this screen's."""

    def __call__(self, event: Line, _: str) -> None:
        """Take in one event, and paint if a painting is due."""
        self.progress.take(event)
        if event["event"] == "run.started":
            if "resumed_from" in event:
                for earlier in self.earlier_events(event["resumed_from"]):
                    self.progress.take(earlier)
            self._begin()
        elif event["event"] == "run.finished":
            self.close()
            Readable(self.console).conclude(self.progress.started, self.progress.epoch, event)
        else:
            self.tick()

    def print_text(self, text: str) -> None:
        """End the screen, and print a line that belongs to no event below it."""
        self.close()
        Readable(self.console).print_text(text)

    def tick(self) -> None:
        """Paint if a painting is due."""
        if self._open and self._now() >= self._due:
            self.paint()

    def paint(self) -> None:
        """Paint now, unless a painting is under way; safe in a signal handler."""
        if not self._open or not self._lock.acquire(blocking=False):
            return
        try:
            if not self._painting:
                begun = self._now()
                self._repaint(max(1, self.console.size.height - 1))
                took = self._now() - begun
                self._due = begun + max(PAUSE, took / SHARE)
        finally:
            self._lock.release()

    def put_above(self, text: str) -> bool:
        """Print lines above the screen; False if there is no screen now."""
        with self._lock:
            if not self._open or self._painting:
                return False
            self._put(Text.from_ansi(text))
            return True

    def close(self) -> None:
        """Paint the whole screen a last time and give the terminal back; harmless twice."""
        with self._lock:
            if self._open:
                self._repaint(None)
                self._open = False
                self._restore()

    # --- painting -----------------------------------------------------------------------------

    def _repaint(self, height: int | None) -> None:
        view = Viewport(self.console.width - 1, height, not self.console.options.ascii_only)
        context = ScreenContext(datetime.now(UTC), self.store, self.offline(), self.cost())
        self._below.set_renderable(Group(*frame(self.progress, view, context)))
        self._put()

    def _put(self, *above: Text) -> None:
        """Print the lines above, then the screen, where the last one was, in one write."""
        self._painting = True
        try:
            with self.console:
                self._go_back()
                for text in above:
                    self.console.print(text, soft_wrap=True)
                self.console.print(self._below)
                self.console.line()  # where the terminal echoes ^C
        except OSError:  # the terminal is gone; the run goes on
            self.console.quiet = True
        finally:
            self._painting = False

    def _go_back(self) -> None:
        """Move the cursor to where the screen begins.

        A terminal that became narrower may have broken lines anew, and nobody knows where the
        screen begins: then all that is visible is scrolled up, whole.
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
        """Take the lower end of the terminal; what others print goes above it."""
        if not self._open:
            self._below = LiveRender("", vertical_overflow="visible")
            self._width = self.console.width
            for name in STREAMS:
                stream = getattr(sys, name)
                if not isinstance(stream, _Above) and stream.isatty():
                    self._above[name] = _Above(self, stream)
                    setattr(sys, name, self._above[name])
            with suppress(ValueError):  # not in the main thread
                self._resize_handler = signal.signal(signal.SIGWINCH, lambda *_: self.paint())
            self._open = True
        self.paint()

    def _restore(self) -> None:
        """Put the streams and the signal handler back."""
        for name, above in self._above.items():
            if getattr(sys, name) is above:
                setattr(sys, name, above.rich_proxied_file)
            above.finish()
        self._above.clear()
        with suppress(ValueError):
            signal.signal(signal.SIGWINCH, self._resize_handler or signal.SIG_DFL)


class _Above:
    """A stream in place of stdout or stderr: whole lines appear above the screen."""

    def __init__(self, screen: Live, stream: TextIO) -> None:
        self.rich_proxied_file = stream  # so rich's Console finds the real one
        self._screen, self._waiting = screen, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)

    def write(self, text: str) -> int:
        """Print the lines that are complete."""
        *lines, self._waiting = (self._waiting + text).split("\n")
        if lines and not self._screen.put_above("\n".join(lines)):
            self.rich_proxied_file.write("".join(f"{line}\n" for line in lines))
        return len(text)

    def finish(self) -> None:
        """Print the last line, which is not complete."""
        self.rich_proxied_file.write(self._waiting)
        self._waiting = ""
