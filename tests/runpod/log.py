"""A simulated pod's log: lines of its container and of its host, as server-sent events."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.runpod.pod import SimulatedPod

SOURCES = ("container", "system")
TAIL, MOST = 100, 5000


def instant(when: datetime) -> str:
    """As the API writes a time."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Line(NamedTuple):
    """A line of a log."""

    number: int
    ts: str
    source: str
    text: str

    def event(self) -> bytes:
        """As it is sent."""
        data = json.dumps({"ts": self.ts, "source": self.source, "line": self.text})
        return f"id: {self.ts}/{self.number:012d}\ndata: {data}\n\n".encode()


class Log:
    """All lines of a pod, from its first boot on."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._lock = threading.Lock()

    def add(self, source: str, text: str) -> None:
        with self._lock:
            self.lines.append(Line(len(self.lines) + 1, instant(datetime.now(UTC)), source, text))

    def text(self, source: str) -> str:
        """What one source has said."""
        return "".join(f"{line.text}\n" for line in list(self.lines) if line.source == source)


class View:
    """What a request wants of a log; raises ValueError where it is not well formed.

    A time leads to all lines of that second: one seen before may come again. The whole id of an
    event leads to the one that follows it.
    """

    def __init__(self, pod: SimulatedPod, query: Mapping[str, str], last_id: str | None) -> None:
        self.pod = pod
        lines = list(pod.log.lines)
        self._source = query.get("source")
        if self._source not in (None, *SOURCES):
            raise ValueError(f"source: must be one of {', '.join(SOURCES)}")
        tail = int(query.get("tail", TAIL))
        if not 0 <= tail <= MOST:
            raise ValueError(f"tail: must be 0 to {MOST}")
        since, _, number = (last_id or query.get("since") or "").partition("/")
        if number:
            self._next = int(number)
        elif since:
            self._next = _first_since(lines, since)
        else:
            wanted = [line.number - 1 for line in lines if self._wants(line)]
            self._next = wanted[-tail:][0] if wanted and tail else len(lines)

    def _wants(self, line: Line) -> bool:
        return self._source in (None, line.source)

    def new(self) -> list[Line]:
        """The lines since the last call."""
        found = self.pod.log.lines[self._next :]
        self._next += len(found)
        return [line for line in found if self._wants(line)]


def _first_since(lines: list[Line], since: str) -> int:
    when = datetime.fromisoformat(since)
    if when.tzinfo is None:
        raise ValueError("since: must have an offset")
    point = instant(when)
    return next((line.number - 1 for line in lines if line.ts >= point), len(lines))


class Follower:
    """The lines that are written into a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._at, self._rest = path, 0, b""

    def lines(self, last: bool = False) -> list[str]:
        """The whole ones since the last call; the rest too if nothing more will come."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._at)
                new = file.read()
            self._at += len(new)
            self._rest += new
        *whole, self._rest = self._rest.split(b"\n")
        if last and self._rest:
            whole, self._rest = [*whole, self._rest], b""
        return [line.decode(errors="replace") for line in whole]
