"""`python -m deploy.logs RUN`: what a run has told, from the store; its pod may be long gone."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.command import Json, KeyFile, RunName, StoreUrl, client, say, serve, signals
from deploy.ends import (
    CANCELLED,
    DEADLINE,
    ERROR,
    FAILED,
    GATES_FAILED,
    INVALID,
    NO_ACCESS,
    NOT_FINISHED,
    NOT_FOUND,
    OK,
    Stop,
)

if TYPE_CHECKING:
    from deploy.book import Found
    from deploy.state import State
    from job.journal import Line
    from job.store import Store

LAG = 2.0
"""Seconds between two looks for new events."""
SYSTEM_SECONDS = 3.0
"""How long RunPod's lines are listened to where nothing is followed."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def logs(
    run: RunName,
    store: StoreUrl = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Go on until the run ends or stands; gives its code."),
    ] = False,
    system: Annotated[
        bool, typer.Option("--system", help="RunPod's own lines, too: image pull, boots.")
    ] = False,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    event: Annotated[
        list[str] | None, typer.Option(help="Only events of this kind; may be repeated.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only from then on: 90s, 15m, 2h, 1d, or an ISO 8601 time.")
    ] = None,
    tail: Annotated[int | None, typer.Option(min=0, help="Only the last so many events.")] = None,
    as_json: Json = False,
    api_key_file: KeyFile = None,
) -> None:
    """Print a run's events, all attempts as one history; readable, or as JSON lines."""
    from deploy.find import find
    from job.store import Missing, open_store

    chosen = Chosen(task, _kinds(event or []), _time(since), tail)
    found = find(run, store)
    where = open_store(found.store)
    _check_task(where, found.run, task)
    if system:
        _system(found, where, client(api_key_file), follow, as_json)
    whole = follow and not event and task is None and since is None and tail is None
    shown = Shown(as_json, steps=task is not None or "step" in chosen.kinds, whole=whole)
    try:
        try:
            code = _print(found, where, chosen, shown, follow)
        except Missing as missing:
            raise Stop(NOT_FOUND, str(missing)) from missing
    finally:
        shown.close()
    raise typer.Exit(code)


class Chosen:
    """Which events, and what of them."""

    def __init__(
        self, task: str | None, kinds: set[str], since: datetime | None, tail: int | None
    ) -> None:
        self.task, self.kinds, self.since, self.tail = task, kinds, since, tail

    def of(self, events: Iterable[Line]) -> list[Line]:
        """Those chosen, each with the chosen task alone."""
        narrowed = [self.narrowed(event) for event in events if self._is_chosen(event)]
        return [event for event in narrowed if event is not None]

    def _is_chosen(self, event: Line) -> bool:
        late = self.since is None or datetime.fromisoformat(event["ts"]) >= self.since
        return late and (not self.kinds or event["event"] in self.kinds)

    def narrowed(self, event: Line | None) -> Line | None:
        """An event with the chosen task alone; None where it says nothing of it."""
        if self.task is None or event is None:
            return event
        if event.get("task", self.task) != self.task:
            return None
        tasks = event.get("tasks")
        if tasks is None:
            return event
        return {**event, "tasks": {self.task: tasks[self.task]}} if self.task in tasks else None


class Shown:
    """Shows events: as lines of JSON, of text, or on one screen.

    steps: a line for every step, too. whole: all events will come, so that a screen can show them.
    """

    def __init__(self, as_json: bool, steps: bool, whole: bool) -> None:
        from job.live import shown
        from job.show import Readable

        self.readable = None if as_json else shown() if whole else Readable(steps=steps)

    def __call__(self, event: Line) -> None:
        """Print one."""
        if self.readable is not None:
            self.readable(event, "")
        else:
            print(json.dumps(event, separators=(",", ":")), flush=True)

    def introduce(self, started: Line | None) -> None:
        """Tell the readable form whose events follow, where its first event is not among them."""
        from job.show import Readable

        if isinstance(self.readable, Readable) and started is not None:
            self.readable.introduce(started)

    def tick(self, store: Store, state: State) -> None:
        """Show what is known beside the events."""
        from job.frame import Rent
        from job.live import Live

        if isinstance(self.readable, Live):
            rent = Rent(state.cost_per_hour, state.spent_usd, state.deadline)
            self.readable.store = store.url
            self.readable.rent = lambda: rent if state.pod_id else None
            self.readable.tick()

    def close(self) -> None:
        """Harmless twice."""
        if self.readable is not None:
            self.readable.close()


def _print(found: Found, store: Store, chosen: Chosen, shown: Shown, follow: bool) -> int:
    """Print what there is, then, following, what comes; returns the exit code."""
    from job.document import Damaged
    from job.history import Tail
    from job.store import Unavailable

    tail = Tail(store, found.run)
    events, tail.seq = _stored(store, found.run, chosen)
    picked = chosen.of(events)
    picked = picked if chosen.tail is None else picked[len(picked) - chosen.tail :]
    if picked and picked[0]["event"] != "run.started":
        shown.introduce(chosen.narrowed(_started(store, found.run)))
    for event in picked:
        shown(event)
    interrupted = signals() if follow else None
    if interrupted is not None:
        _tell_waiting(found)
    while interrupted is not None and not interrupted.is_set():
        try:
            state = _state(found)
            ended = state.exit_code != NOT_FINISHED or state.again is not None
            for event in tail.new(final=ended):
                for narrowed in chosen.of([event]):
                    shown(narrowed)
            if ended:
                shown.close()
                if state.again is not None:
                    say(f"{found.run}: {state.state}; to go on: {state.again}")
                return state.exit_code
            shown.tick(store, state)
        except (Unavailable, Damaged) as fault:
            say(f"events cannot be read now: {fault}")
        interrupted.wait(LAG)
    return OK


def _stored(store: Store, run: str, chosen: Chosen) -> tuple[list[Line], int]:
    """The events that are there, and the last one's number; raises Missing, StoreError."""
    from job.history import read_document, read_history
    from job.store import Missing

    try:
        if chosen.tail is not None:
            return _last(store, run, chosen)
        events = read_history(store, run)
    except Missing:
        if read_document(store, run, "pods.json") is None:
            raise
        say(f"{run}: submitted, no event yet")
        return [], 0
    return events, events[-1]["seq"] if events else 0


def _tell_waiting(found: Found) -> None:
    """Say so where nothing is likely to come."""
    state = _state(found)
    if not state.is_fresh and state.exit_code == NOT_FINISHED and state.again is None:
        say(f"{found.run}: {state.state}, without a heartbeat of late; waiting for it to go on")


def _state(found: Found) -> State:
    """What the store tells of the run; RunPod is not asked."""
    from deploy.state import read_state

    return read_state(found, datetime.now(UTC), None)


def _last(store: Store, run: str, chosen: Chosen) -> tuple[list[Line], int]:
    """The last events of those chosen, read from the end; and the last event's number."""
    from job.history import read_last

    wanted = chosen.tail or 0
    count = max(wanted, 1)
    while True:
        events = read_last(store, run, count)
        if len(chosen.of(events)) >= wanted or not events or events[0]["seq"] == 1:
            return events, events[-1]["seq"] if events else 0
        count = 4 * max(count, len(events))


def _started(store: Store, run: str) -> Line | None:
    """The run's first event."""
    from job.history import read_first

    return read_first(store, run)


def _kinds(asked: list[str]) -> set[str]:
    """The kinds of events asked for; raises Stop for one that no run has."""
    from typing import get_args

    from job.events import Event

    kinds = [part.model_fields["event"].default for part in get_args(get_args(Event)[0])]
    if unknown := sorted(set(asked) - set(kinds)):
        why = f"--event: found {', '.join(unknown)}; must be one of {', '.join(kinds)}"
        raise Stop(INVALID, why)
    return set(asked)


def _check_task(store: Store, run: str, task: str | None) -> None:
    """Raises Stop where the run has no such task."""
    from contextlib import suppress

    from job.store import Missing

    started = None
    with suppress(Missing):
        started = _started(store, run)
    if task is not None and started is not None and task not in started["tasks"]:
        why = f"--task: found {task}; the run's tasks are {', '.join(started['tasks'])}"
        raise Stop(INVALID, why)


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    if ago := re.fullmatch(r"([0-9.]+)([smhd])", text):
        return datetime.now(UTC) - timedelta(seconds=float(ago[1]) * UNITS[ago[2]])
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        why = f"--since: found {text!r}; it must be such as 90s, 15m, 2h, 1d, or an ISO 8601 time"
        raise Stop(INVALID, why) from None
    return found if found.tzinfo else found.astimezone()


def _system(found: Found, store: Store, api: Any, follow: bool, as_json: bool) -> None:
    """RunPod's lines of the run's newest pod; following, they go on beside the events."""
    from deploy.runpod_api import NotThere
    from job.history import read_document

    book = read_document(store, found.run, "pods.json") or {}
    pods = [a["pod"] for a in book.get("attempts", ()) if a.get("pod")]
    if not pods:
        say("RunPod's lines: this run has had no pod")
        return

    def work() -> None:
        try:
            for logged in api.log(pods[-1], "system", 500, None):
                line = {"source": "system", **logged.data}
                print(json.dumps(line) if as_json else f"system: {logged.data.get('line', '')}")
        except NotThere:
            say("RunPod's lines: the pod is gone, and its log with it")
        except Exception as fault:
            say(f"RunPod's lines: {fault}")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    if not follow:  # the stream does not end by itself
        thread.join(SYSTEM_SECONDS)


if __name__ == "__main__":
    serve(
        *("logs", logs, OK, ERROR, INVALID, NO_ACCESS, FAILED, NOT_FOUND),
        *(CANCELLED, DEADLINE, GATES_FAILED),
    )
