"""One consistent history of a run from its segments: what every reader of a run uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic_core import from_json

from job.document import Damaged, Document
from job.head import HeadDocument
from job.journal import Line
from job.records import Segment, digest_of
from job.store import Missing, Store

OF_TRAINING = frozenset({"step", "epoch", "gate", "run.finished"})
"""Events that a return to an earlier checkpoint supersedes; the others stay true."""


def read_history(store: Store, run: str, superseded: bool = False) -> list[Line]:
    """The events of `<name>/<run id>` in order, without those that a resume has superseded.

    Raises Missing where the store has no such run, Damaged where an event is missing or a segment
    is not as it was written, StoreError. With `superseded`, those events are there too.
    """
    events = list(read_events(store, run))
    gone: set[int] = set()
    for event in events:
        if event["event"] == "superseded":
            gone.update(range(event["from_seq"], event["to_seq"] + 1))
    if superseded:
        return events
    return [e for e in events if e["seq"] not in gone or e["event"] not in OF_TRAINING]


def stream_history(store: Store, run: str) -> Iterator[tuple[Line, bool]]:
    """Every event, and whether it counts, as in `read_history`; one segment is held at a time.

    The store is read twice: what supersedes an event comes after it. Raises as `read_history`.
    """
    gone = list(_superseded(store, run))
    for event in read_events(store, run):
        taken_back = event["event"] in OF_TRAINING and any(event["seq"] in seqs for seqs in gone)
        yield event, not taken_back


def _superseded(store: Store, run: str) -> Iterator[range]:
    """Numbers of the events that a resume has taken back; only the lines that say so are parsed."""
    head = HeadDocument(store, run, fenced=False).read()
    for segment in _counting(store, run, head.fences if head else {}):
        for line in store.get(segment.key).data.splitlines():
            if b'"superseded"' in line and (event := from_json(line))["event"] == "superseded":
                yield range(event["from_seq"], event["to_seq"] + 1)


def read_events(store: Store, run: str) -> Iterator[Line]:
    """Every event that counts, in the order of `seq`; raises as `read_history`."""
    head = HeadDocument(store, run, fenced=False).read()
    if head is None:
        raise Missing(f"{store.url} has no run {run}")
    for segment in valid_segments(store, run, head.fences):
        yield from _lines(store, segment)


def read_backwards(store: Store, run: str) -> Iterator[Line]:
    """Every event that counts, the last one first; raises as `read_history`.

    So read, what supersedes events comes before them. Of one segment the lines are held, and of
    them one is parsed at a time: many events at once would cost the garbage collector twice that.
    """
    for lines in lines_backwards(store, run):
        yield from map(parsed, lines)


def lines_backwards(store: Store, run: str) -> Iterator[list[bytes]]:
    """The lines of every event that counts, the last one first, a segment's at a time.

    Raises as `read_history`.
    """
    head = HeadDocument(store, run, fenced=False).read()
    if head is None:
        raise Missing(f"{store.url} has no run {run}")
    for segment in reversed(valid_segments(store, run, head.fences)):
        yield _raw(store, segment)[::-1]


def read_last(store: Store, run: str, count: int) -> list[Line]:
    """The last events that count, at least `count` where there are so many, without reading all.

    Raises as `read_history`; events that a later resume has superseded are among them.
    """
    head = HeadDocument(store, run, fenced=False).read()
    if head is None:
        raise Missing(f"{store.url} has no run {run}")
    found: list[Line] = []
    for segment in reversed(valid_segments(store, run, head.fences)):
        found[:0] = _lines(store, segment)
        if len(found) >= count:
            break
    return found


def read_first(store: Store, run: str) -> Line | None:
    """The first event, which is `run.started`; None before it. Raises as `read_history`."""
    head = HeadDocument(store, run, fenced=False).read()
    segments = _counting(store, run, head.fences if head else {})
    return _lines(store, segments[0])[0] if segments else None


def _lines(store: Store, segment: Segment) -> list[Line]:
    """A segment's events; raises Damaged."""
    return [parsed(line) for line in _raw(store, segment)]


def _raw(store: Store, segment: Segment) -> list[bytes]:
    data = store.get(segment.key).data
    if digest_of(data) != segment.digest:
        raise Damaged(f"{segment.key} is damaged: it does not have the digest in its name")
    return data.splitlines()


def parsed(line: bytes) -> Line:
    """An event from its line."""
    # Faster than the standard library; a long run has gigabytes of lines.
    event: Line = from_json(line, cache_strings="keys")
    return event


def valid_segments(store: Store, run: str, fences: Mapping[int, int]) -> list[Segment]:
    """The segments that count: gapless, and none that a fenced process wrote after its time.

    Whose time was over is told by the fences and, for one that the head at hand does not know yet,
    by the first segment of a later lease epoch. Raises Damaged where events are missing.
    """
    valid = _counting(store, run, fences)
    last = 0
    for segment in valid:
        if segment.first != last + 1:
            raise Damaged(
                f"events {last + 1} to {segment.first - 1} of run {run} are missing before "
                f"{segment.key}"
            )
        last = segment.last
    settled = max(fences.values(), default=0)
    if last < settled:
        raise Damaged(f"events {last + 1} to {settled} of run {run} are missing")
    return valid


def last_seq(store: Store, run: str, fences: Mapping[int, int]) -> int:
    """The last event that counts, also where earlier ones are missing; 0 where there is none."""
    stored = (segment.last for segment in _counting(store, run, fences))
    return max([*stored, *fences.values()], default=0)


def _counting(store: Store, run: str, fences: Mapping[int, int]) -> list[Segment]:
    named = [Segment.named(entry.key) for entry in store.list(f"{run}/events/")]
    return _in_time(sorted(s for s in named if s and s.last <= fences.get(s.epoch, s.last)))


def _in_time(found: list[Segment]) -> list[Segment]:
    """Without those that begin a history of their own where a later lease epoch's has begun."""
    kept: list[Segment] = []
    for segment in reversed(found):
        if not kept or segment.epoch == kept[-1].epoch or segment.last < kept[-1].first:
            kept.append(segment)
    return kept[::-1]


class Tail:
    """The events of a run as they come into the store, each once."""

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.run = store, run
        self.seq = 0
        """The last event that was given out."""

    def new(self, final: bool = False) -> Iterator[Line]:
        """What has come since; nothing before the run has begun.

        An event that is missing is waited for; with `final` what comes after it is given out all
        the same. Raises StoreError, and Damaged once for a segment that is, and goes on after it.
        """
        head = HeadDocument(self.store, self.run, fenced=False).read()
        for segment in _counting(self.store, self.run, head.fences if head else {}):
            if segment.last <= self.seq:
                continue
            if segment.first > self.seq + 1 and not final:
                break
            try:
                lines = _lines(self.store, segment)
            except Damaged:
                self.seq = segment.last
                raise
            after, self.seq = self.seq, segment.last
            yield from (line for line in lines if line["seq"] > after)


def read_document(store: Store, run: str, name: str) -> Line | None:
    """`status.json`, `result.json` or another sealed document of a run; None where it is not."""
    return Document(store, f"{run}/{name}").read()
