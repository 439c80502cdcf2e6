"""One consistent history of a run from its segments: what every reader of a run uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic_core import from_json

from job.events.log import Line
from job.events.superseded import SupersededEvents
from job.events.well_formed import is_event
from job.record.document import Damaged, Document
from job.record.run_index import Fences, RunIndexStore
from job.record.segments import Segment, digest_of
from job.store import Missing, Store


def read_history(store: Store, run: str, superseded: bool = False) -> list[Line]:
    """The events of `<name>/<run id>` in order, without those that a resume has superseded.

    With `superseded`, those too. This is for scripts, as in docs/store.md, and says what the other
    readers must find; the job uses those, as memory may not hold a long run. Raises Missing if the
    store has no such run, Damaged if an event is missing or a segment is not as it was written,
    StoreError.
    """
    events = list(read_events(store, run))
    return events if superseded else list(filter(SupersededEvents(events).counts, events))


def stream_history(store: Store, run: str) -> Iterator[tuple[Line, bool]]:
    """Every event, and True if it counts as in `read_history`; memory holds one segment at a time.

    The store is read twice, as what supersedes an event comes after it. Raises as `read_history`.
    """
    superseded = SupersededEvents(_superseded(store, run))
    for event in read_events(store, run):
        yield event, superseded.counts(event)


def _superseded(store: Store, run: str) -> Iterator[Line]:
    """The events `superseded`; only their lines are parsed."""
    for segment in counting_segments(store, run, _fences(store, run)):
        for line in _raw(store, segment):
            if b'"superseded"' in line:
                yield parsed(line)


def read_events(store: Store, run: str) -> Iterator[Line]:
    """Every stored event that is not fenced, in the order of `seq`; raises as `read_history`."""
    for segment in valid_segments(store, run, _existing_fences(store, run)):
        yield from _lines(store, segment)


def read_backwards(store: Store, run: str) -> Iterator[Line]:
    """The same events, the last one first; raises as `read_history`.

    An event that supersedes others then comes before them. Memory holds the lines of one segment
    and one parsed event: many parsed events would cost the garbage collector twice that.
    """
    for lines in lines_backwards(store, run):
        yield from map(parsed, lines)


def counting_backwards(store: Store, run: str) -> Iterator[Line]:
    """The events of `read_history`, the last one first; raises as that.

    One reading tells which count, and memory is that of `read_backwards`.
    """
    superseded = SupersededEvents()
    for event in read_backwards(store, run):
        superseded.add(event)
        if superseded.counts(event):
            yield event


def lines_backwards(store: Store, run: str) -> Iterator[list[bytes]]:
    """The lines of the same events, the last one first, one segment's at a time.

    Raises as `read_history`.
    """
    for segment in reversed(valid_segments(store, run, _existing_fences(store, run))):
        yield _raw(store, segment)[::-1]


def read_first(store: Store, run: str) -> Line | None:
    """The first event, which is `run.started`; None before it. Raises as `read_history`."""
    segments = counting_segments(store, run, _fences(store, run))
    return _lines(store, segments[0])[0] if segments else None


def _fences(store: Store, run: str) -> Mapping[int, int]:
    index = RunIndexStore(store, run, fenced=False).read()
    return index.fences if index else {}


def _existing_fences(store: Store, run: str) -> Mapping[int, int]:
    """Raises Missing if there is no such run."""
    index = RunIndexStore(store, run, fenced=False).read()
    if index is None:
        raise Missing(f"{store.url} has no run {run}")
    return index.fences


def _lines(store: Store, segment: Segment) -> list[Line]:
    """A segment's events; raises Damaged."""
    return [parsed(line) for line in _raw(store, segment)]


def _raw(store: Store, segment: Segment) -> list[bytes]:
    """A segment's lines; raises Damaged."""
    data = store.get(segment.key).data
    if digest_of(data) != segment.digest:
        raise Damaged(f"{segment.key} is damaged: it does not have the digest in its name")
    lines = data.splitlines()
    if len(lines) != segment.last - segment.first + 1:
        raise Damaged(
            f"{segment.key} is damaged: it holds {len(lines)} lines, not what it is named"
        )
    return lines


def parsed(line: bytes) -> Line:
    """An event from its line; raises Damaged for a line that is no event."""
    try:
        # Faster than the standard library; a long run has gigabytes of lines.
        event: Line = from_json(line, cache_strings="keys")
    except ValueError as error:
        raise Damaged(f"a line of the run's events is no JSON: {error}"[:200]) from None
    if not is_event(event):
        start = line[:80].decode("ascii", "replace")
        raise Damaged(f"a line of the run's events lacks what an event has: {start}")
    return event


def valid_segments(store: Store, run: str, fences: Mapping[int, int]) -> list[Segment]:
    """The segments that count, without a gap; raises Damaged if events are missing.

    A lease epoch ends at its fence, or at the first segment of a later epoch.
    """
    valid = counting_segments(store, run, fences)
    last = 0
    for segment in valid:
        if segment.first != last + 1:
            raise Damaged(
                f"events {last + 1} to {segment.first - 1} of run {run} are missing before "
                f"{segment.key}"
            )
        last = segment.last
    settled = Fences(fences).highest
    if last < settled:
        raise Damaged(f"events {last + 1} to {settled} of run {run} are missing")
    return valid


def last_seq(store: Store, run: str, fences: Mapping[int, int]) -> int:
    """The number of the last event that counts, even if earlier ones are missing; else 0."""
    stored = (segment.last for segment in counting_segments(store, run, fences))
    return max([*stored, Fences(fences).highest], default=0)


def counting_segments(
    store: Store, run: str, fences: Mapping[int, int], after: str = ""
) -> list[Segment]:
    """The segments that no fence and no later epoch rules out, in order; there may be gaps.

    after: only those whose keys come after this one.
    """
    named = [
        Segment.named(entry.key)
        for entry in store.list(f"{run}/events/", after)
        if entry.key.rpartition("/")[0] == f"{run}/events"  # a copied folder is not ours
    ]
    fence = Fences(fences)
    within = [s for s in named if s is not None and _is_within(s, fence.last(s.epoch))]
    kept: list[Segment] = []
    for segment in sorted(within, key=lambda segment: segment.order, reverse=True):
        # What an epoch wrote after a later one had begun counts no more.
        if not kept or segment.epoch == kept[-1].epoch or segment.last < kept[-1].first:
            kept.append(segment)
    return kept[::-1]


def _is_within(segment: Segment, last: int | None) -> bool:
    return last is None or segment.last <= last


LAST_IN_ORDER = 999_999
"""The last lease epoch whose segments all have keys in order: later ones have more digits."""


class Tail:
    """The events of a run as they come into the store, each once."""

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.run = store, run
        self.seq = 0
        """Number of the last event that was given out."""
        self._after = ""
        """Key after which new segments come; "" if they may be anywhere. A long run has many
        segments, which are listed once."""

    def new(self, final: bool = False) -> Iterator[Line]:
        """The events that have come since the last call; none before the run has begun.

        An event that is missing is waited for; with `final`, later events are given out anyway.
        Raises StoreError; raises Damaged once for a damaged segment, which later calls skip.
        """
        fences = _fences(self.store, self.run)
        for segment in counting_segments(self.store, self.run, fences, self._after):
            if segment.last <= self.seq:
                self._pass(segment)
                continue
            if segment.first > self.seq + 1 and not final:
                self._after = ""  # what is missing may come under any key
                break
            try:
                lines = _lines(self.store, segment)
            except Damaged:
                self._pass(segment)
                raise
            after = self.seq
            self._pass(segment)
            yield from (line for line in lines if line["seq"] > after)

    def _pass(self, segment: Segment) -> None:
        """Look only after this segment from now on."""
        self.seq = max(self.seq, segment.last)
        # Keys are in the order of the segments, as long as their epochs have the same digits.
        self._after = segment.key if segment.epoch < LAST_IN_ORDER else ""


def read_document(store: Store, run: str, name: str) -> Line | None:
    """The body of a sealed document of a run; None if there is none. Raises Damaged."""
    return Document(store, f"{run}/{name}").read()
