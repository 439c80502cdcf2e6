"""A terminal that remembers what a person sees, by an emulator (pyte)."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pyte
from rich.console import ConsoleDimensions

from job.show.console import Screen
from tests.support.command import environment

LAST_LIMIT = 600.0
"""Seconds after which a test fails that waits for a process: no machine needs them."""


class Emulator:
    """The text on a terminal and in its scrollback."""

    def __init__(self, columns: int, rows: int) -> None:
        self._screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""

    def feed(self, data: bytes) -> None:
        self.raw += data
        self._stream.feed(data)

    def resize(self, columns: int, rows: int) -> None:
        self._screen.resize(rows, columns)

    @property
    def visible(self) -> list[str]:
        """The visible lines, down to the last that is not empty."""
        lines = [line.rstrip() for line in self._screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def everything(self) -> str:
        """The scrollback and the visible lines."""
        columns = range(self._screen.columns)
        top = ["".join(line[x].data for x in columns) for line in self._screen.history.top]
        return "\n".join([*(line.rstrip() for line in top), *self.visible])

    @property
    def shows_cursor(self) -> bool:
        return not self._screen.cursor.hidden


class Painted(Emulator):
    """A terminal in this process, to which a console writes."""

    def __init__(self, columns: int = 80, rows: int = 24, encoding: str = "utf-8") -> None:
        super().__init__(columns, rows)
        self.gone = False
        """True as if the window was closed: nothing can be written any more."""
        self.stream: IO[str] = _Fed(self, encoding)
        """In place of stdout or stderr."""
        self.console = Screen(
            file=self.stream,
            width=columns,
            height=rows,
            force_terminal=True,
            color_system="standard",
            _environ={},
        )
        self.console.is_ascii = False  # whatever the locale of the tests is

    def resize(self, columns: int, rows: int) -> None:
        super().resize(columns, rows)
        self.console.size = ConsoleDimensions(columns, rows)

    def feed(self, data: bytes) -> None:
        if self.gone:
            raise OSError(errno.EIO, "Input/output error")
        super().feed(data)


class _Fed(io.StringIO):
    def __init__(self, emulator: Emulator, encoding: str) -> None:
        super().__init__()
        self._emulator, self._encoding = emulator, encoding

    def __getattribute__(self, name: str) -> Any:
        # Its class has `encoding` as an attribute that cannot be set.
        return super().__getattribute__("_encoding" if name == "encoding" else name)

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._emulator.feed(text.replace("\n", "\r\n").encode(self._encoding))
        return len(text)


class Terminal(Emulator):
    """A process on a pseudo-terminal; use it as a context."""

    def __init__(
        self, folder: Path, *command: str, size: tuple[int, int] = (100, 40), **settings: str
    ) -> None:
        columns, rows = size
        super().__init__(columns, rows)
        self._ours, its = pty.openpty()
        self._set_size(columns, rows)
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(**{"TERM": "xterm-256color"} | settings),
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
            preexec_fn=_own_terminal,
        )
        os.close(its)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def until(self, condition: Callable[[], bool], seconds: float = LAST_LIMIT) -> None:
        """Read until the condition holds; fails if the process ends first."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.everything
            assert self._read(0.1), self.everything

    def wait(self, seconds: float = LAST_LIMIT) -> int:
        """Read to the end; returns the exit code."""
        deadline = time.monotonic() + seconds
        while self._read(0.1):
            assert time.monotonic() < deadline, self.everything
        return self.process.wait(seconds)

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def resize(self, columns: int, rows: int) -> None:
        """Resize it as a window manager does: the kernel then sends SIGWINCH."""
        super().resize(columns, rows)
        self._set_size(columns, rows)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self, seconds: float) -> bool:
        """Read what comes within so many seconds; False once nothing can come any more."""
        if not select.select([self._ours], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # so Linux reports that the other end is closed
            return False
        self.feed(data)
        return bool(data)


def _own_terminal() -> None:
    """Make stdin this session's terminal, so that Ctrl-C and SIGWINCH come from it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
