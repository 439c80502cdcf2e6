"""The run's record as it is written: typed events become stamped, gapless JSON lines."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json
from structlog.typing import EventDict

from job.events import SCHEMA, fields

Line = dict[str, Any]
Sink = Callable[[Line, str], None]
"""Takes an event as a dict of JSON values and as its line."""


def _json(values: Line, **_: object) -> str:
    """In ASCII, so that it survives any terminal's and any log's encoding."""
    with suppress(PydanticSerializationError):  # a lone surrogate, in some error's text
        line = to_json(values)  # in a quarter of the standard library's time
        if line.isascii():
            return line.decode()
    return json.dumps(values, allow_nan=False, separators=(",", ":"))


STEP_SECONDS = 1.0
"""Between two steps' lines where they are sampled."""
RENDER = structlog.processors.JSONRenderer(_json)


class Journal:
    """Numbers events and hands each to every sink: the terminal, the store. For many threads."""

    def __init__(self, run_id: str, sinks: Sequence[Sink], next_seq: int = 1) -> None:
        self.run_id = run_id
        self.next_seq = next_seq
        """Of the next event; part of the run's state."""
        self._sinks = list(sinks)
        self._lock = threading.Lock()
        self._log = structlog.wrap_logger(
            _Handed(self._hand),
            processors=[
                structlog.processors.TimeStamper("iso", utc=True, key="ts"),
                self._stamp,
                self._render,
            ],
            wrapper_class=structlog.BoundLogger,
            cache_logger_on_first_use=False,
        )

    def emit(self, event: BaseModel) -> None:
        """Write one event of job.events."""
        values = fields(event)
        with self._lock:
            self._log.msg(values.pop("event"), **values)
            self.next_seq += 1

    def _stamp(self, _: object, __: str, event: EventDict) -> Line:
        envelope = {"ts": event.pop("ts"), "schema": SCHEMA, "run_id": self.run_id}
        return {**envelope, "seq": self.next_seq, "event": event.pop("event"), **event}

    def _render(
        self, _: object, __: str, event: EventDict
    ) -> tuple[tuple[EventDict, str], dict[str, Any]]:
        # What the last processor returns are the arguments of _Handed.msg.
        return (event, str(RENDER(None, "", event))), {}

    def _hand(self, event: Line, line: str) -> None:
        for sink in self._sinks:
            sink(event, line)


class _Handed:
    """What structlog logs to: hands on the event and its line."""

    def __init__(self, hand: Sink) -> None:
        self.msg = hand


def print_line(_: Line, line: str) -> None:
    """Sink: the raw line on stdout, at once."""
    try:
        print(line, flush=True)
    except OSError:  # a pipe without a reader, a full disk
        discard_stdout()


class Sampled:
    """Sink: raw lines, of steps one a second at most; every one of them is in the store.

    A rented host throttles a log that comes too fast, and training would wait for it.
    """

    def __init__(self) -> None:
        self._told = -math.inf

    def __call__(self, event: Line, line: str) -> None:
        """Print one, or pass it over."""
        if event["event"] == "step":
            if time.monotonic() - self._told < STEP_SECONDS:
                return
            self._told = time.monotonic()
        print_line(event, line)


def discard_stdout() -> None:
    """Send stdout nowhere from now on. A run outlives its reader: its record is in the store."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
