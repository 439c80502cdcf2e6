"""The event log: typed events become JSON lines with a time and a number, without a gap."""

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

from job.events.json_fields import fields
from job.events.types import SCHEMA

Line = dict[str, Any]
Sink = Callable[[Line, str], None]
"""Called with an event as a dict of JSON values, and with its line."""


def _json(values: Line, **_: object) -> str:
    """An event's line in ASCII, which survives the encoding of any terminal and any log."""
    with suppress(PydanticSerializationError):  # a lone surrogate, in some error's text
        line = to_json(values)  # in a quarter of the standard library's time
        if line.isascii():
            return line.decode()
    return json.dumps(values, allow_nan=False, separators=(",", ":"))


STEP_SECONDS = 1.0
"""At least, between two steps' lines if they are sampled."""
RENDER = structlog.processors.JSONRenderer(_json)


class EventLog:
    """Numbers events and passes each to every sink; safe between threads."""

    def __init__(self, run_id: str, sinks: Sequence[Sink], next_seq: int = 1) -> None:
        self.run_id = run_id
        self.next_seq = next_seq
        """Number of the next event; part of the run's state."""
        self._sinks = list(sinks)
        self._lock = threading.Lock()
        self._log = structlog.wrap_logger(
            _SinkLogger(self._pass_on),
            processors=[
                structlog.processors.TimeStamper("iso", utc=True, key="ts"),
                self._stamp,
                self._render,
            ],
            wrapper_class=structlog.BoundLogger,
            cache_logger_on_first_use=False,
        )

    def emit(self, event: BaseModel) -> None:
        """Log one event of job.events.types."""
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
        # What the last processor returns are the arguments of _SinkLogger.msg.
        return (event, str(RENDER(None, "", event))), {}

    def _pass_on(self, event: Line, line: str) -> None:
        for sink in self._sinks:
            sink(event, line)


class _SinkLogger:
    """structlog's logger; its messages are an event and its line."""

    def __init__(self, sink: Sink) -> None:
        self.msg = sink


def print_line(_: Line, line: str) -> None:
    """A sink that prints the line on stdout at once."""
    try:
        print(line, flush=True)
    except OSError:  # a pipe without a reader, a full disk
        discard_stdout()


class Sampled:
    """A sink that prints lines, but of steps at most one a second; the store has them all.

    A rented host throttles a log that comes too fast, and training would wait for it.
    """

    def __init__(self) -> None:
        self._printed_at = -math.inf

    def __call__(self, event: Line, line: str) -> None:
        """Print a line, or skip it."""
        if event["event"] == "step":
            if time.monotonic() - self._printed_at < STEP_SECONDS:
                return
            self._printed_at = time.monotonic()
        print_line(event, line)


def discard_stdout() -> None:
    """Discard stdout from now on: a run outlives its reader, as its record is in the store."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
