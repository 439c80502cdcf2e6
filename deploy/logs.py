"""`python -m deploy.logs RUN`: a run's events, from the store; its pod may be long gone."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.app import catch_signals, client, run_command
from deploy.exits import (
    CANCELLED,
    DEADLINE,
    GATES_FAILED,
    INVALID,
    JOB_FAILED,
    NO_ACCESS,
    NOT_FINISHED,
    NOT_FOUND,
    OK,
    CommandError,
)
from deploy.options import Json, KeyFile, RunName, StoreUrl, with_options
from deploy.output import log_line
from job.show.printable import printable

if TYPE_CHECKING:
    from deploy.runpod.client import RunPod
    from deploy.runs.event_filter import EventFilter
    from deploy.runs.state import RunState
    from job.events.log import Line
    from job.record.history import Tail
    from job.record.pods import RunRef
    from job.store import Store

POLL_SECONDS = 2.0
"""Between two looks for new events."""
SYSTEM_SECONDS = 3.0
"""How long RunPod's lines are read if nothing is followed."""
SYSTEM_LINES = 500


@dataclass(frozen=True, kw_only=True)
class LogsOptions:
    """Which run, which events, and how they are printed."""

    run: RunName
    store: StoreUrl = None
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Go on until the run ends or stands; gives its code."),
    ] = False
    system: Annotated[
        bool, typer.Option("--system", help="RunPod's own lines, too: image pull, boots.")
    ] = False
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None
    event: Annotated[
        list[str] | None, typer.Option(help="Only events of this kind; may be repeated.")
    ] = None
    since: Annotated[
        str | None, typer.Option(help="Only from then on: 90s, 15m, 2h, 1d, or an ISO 8601 time.")
    ] = None
    tail: Annotated[int | None, typer.Option(min=0, help="Only the last so many events.")] = None
    as_json: Json = False
    api_key_file: KeyFile = None


def logs(options: LogsOptions) -> None:
    """Print a run's events, all attempts as one history; readable, or as JSON lines."""
    from deploy.runs.event_filter import EventFilter, check_kinds, parse_since
    from deploy.runs.locate import locate
    from job.store import Missing, open_store

    kinds, since = check_kinds(options.event or []), parse_since(options.since)
    wanted = EventFilter(options.task, kinds, since, options.tail)
    run = locate(options.run, options.store)
    store = open_store(run.store)
    _check_task(store, run.run, options.task)
    if options.system:
        _print_system_lines(run, store, client(options.api_key_file), options)
    printer = EventPrinter(
        options.as_json,
        steps=options.task is not None or "step" in kinds,
        whole=options.follow and wanted.takes_all,
    )
    try:
        try:
            code = _print(run, store, wanted, printer, options.follow)
        except Missing as missing:
            raise CommandError(NOT_FOUND, str(missing)) from missing
    finally:
        printer.close()
    raise typer.Exit(code)


class EventPrinter:
    """Prints events: as lines of JSON, as lines of text, or on one screen.

    steps: print a line for every step, too. whole: all events will come, so a screen can show them.
    """

    def __init__(self, as_json: bool, steps: bool, whole: bool) -> None:
        from job.show.lines import Readable
        from job.show.live import make_display

        self.readable = None if as_json else make_display() if whole else Readable(steps=steps)

    def __call__(self, event: Line) -> None:
        """Print an event."""
        if self.readable is not None:
            self.readable(event, "")
        else:
            print(json.dumps(event, separators=(",", ":")), flush=True)

    def introduce(self, started: Line | None) -> None:
        """Give the text form the run's first event, if that is not printed itself."""
        from job.show.lines import Readable

        if isinstance(self.readable, Readable) and started is not None:
            self.readable.introduce(started)

    def tick(self, store: Store, state: RunState) -> None:
        """Update what the screen shows beside the events."""
        from job.show.frame import PodCost
        from job.show.live import Live

        if isinstance(self.readable, Live):
            cost = PodCost(state.cost_per_hour, state.spent_usd, state.deadline)
            self.readable.store = store.url
            self.readable.cost = lambda: cost if state.pod_id else None
            self.readable.tick()

    def close(self) -> None:
        """End the output; harmless twice."""
        if self.readable is not None:
            self.readable.close()


def _print(
    run: RunRef, store: Store, wanted: EventFilter, printer: EventPrinter, follow: bool
) -> int:
    """Print the stored events, then, if following, the new ones; returns the exit code."""
    from job.record.history import Tail

    tail = Tail(store, run.run)
    selected, tail.seq = _stored(store, run.run, wanted)
    if selected and selected[0]["event"] != "run.started":
        printer.introduce(wanted.narrow(_first_event(store, run.run)))
    for event in selected:
        printer(event)
    return _follow(run, store, wanted, printer, tail) if follow else OK


def _follow(
    run: RunRef, store: Store, wanted: EventFilter, printer: EventPrinter, tail: Tail
) -> int:
    """Print new events until the run has ended or stands still, or a signal comes."""
    from job.record.document import Damaged
    from job.store import Unavailable

    interrupted = catch_signals()
    _warn_if_silent(run, store)
    while not interrupted.is_set():
        try:
            state = _state(run, store)
            ended = state.exit_code != NOT_FINISHED or state.resume_command is not None
            for event in tail.new(final=ended):  # one by one: reading the next may fail
                for selected in wanted.select([event]):
                    printer(selected)
            if ended:
                printer.close()
                if state.resume_command is not None:
                    log_line(f"{run.run}: {state.state}; resume it with: {state.resume_command}")
                return state.exit_code
            printer.tick(store, state)
        except (Unavailable, Damaged) as fault:
            log_line(f"events cannot be read now: {fault}")
        interrupted.wait(POLL_SECONDS)
    return OK


def _stored(store: Store, run: str, wanted: EventFilter) -> tuple[list[Line], int]:
    """The stored events that pass, and the number of the last event; raises Missing, StoreError.

    They are read from the end, no further than is wanted: those that do not pass are not kept.
    """
    from job.record.history import counting_backwards
    from job.record.pods import PodsRecord
    from job.store import Missing

    passed: list[Line] = []
    last = 0
    try:
        for event in counting_backwards(store, run):
            last = last or event["seq"]
            if len(passed) == wanted.last:
                break
            passed += wanted.select([event])
    except Missing:
        if PodsRecord.read(store, run) is None:
            raise
        log_line(f"{run}: submitted, no event yet")
    return passed[::-1], last


def _warn_if_silent(run: RunRef, store: Store) -> None:
    """Print a line if new events are unlikely."""
    state = _state(run, store)
    stands = state.resume_command is not None
    if not state.is_fresh and state.exit_code == NOT_FINISHED and not stands:
        log_line(f"{run.run}: {state.state}, without a recent heartbeat; waiting for it to go on")


def _state(run: RunRef, store: Store) -> RunState:
    """The run's state by its open store; RunPod is not asked."""
    from deploy.runs.state import read_state

    return read_state(run, datetime.now(UTC), None, store)


def _first_event(store: Store, run: str) -> Line | None:
    from job.record.history import read_first

    return read_first(store, run)


def _check_task(store: Store, run: str, task: str | None) -> None:
    """Raises CommandError if the run has no such task."""
    from contextlib import suppress

    from job.store import Missing

    started = None
    with suppress(Missing):
        started = _first_event(store, run) if task is not None else None
    if started is not None and task not in started["tasks"]:
        why = f"--task: found {task}; the run's tasks are {', '.join(started['tasks'])}"
        raise CommandError(INVALID, why)


def _print_system_lines(run: RunRef, store: Store, api: RunPod, options: LogsOptions) -> None:
    """Print RunPod's lines about the run's newest pod; if following, beside the events."""
    from deploy.runpod.errors import NotThere
    from job.record.pods import PodsRecord

    record = PodsRecord.read(store, run.run)
    pods = [attempt.pod for attempt in (record.attempts if record else ()) if attempt.pod]
    if not pods:
        log_line("RunPod's lines: this run has had no pod")
        return

    def work() -> None:
        try:
            for line in api.log(pods[-1], "system", SYSTEM_LINES, None):
                body = {"source": "system", **line.data}
                print(json.dumps(body) if options.as_json else f"system: {printable(line.text)}")
        except NotThere:
            log_line("RunPod's lines: the pod is gone, and its log with it")
        except Exception as fault:
            log_line(f"RunPod's lines: {fault}")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    if not options.follow:  # the stream does not end by itself
        thread.join(SYSTEM_SECONDS)


if __name__ == "__main__":
    run_command(
        *("logs", with_options(LogsOptions, logs), NO_ACCESS, JOB_FAILED, NOT_FINISHED, NOT_FOUND),
        *(CANCELLED, DEADLINE, GATES_FAILED),
    )
