"""`python -m deploy.reap`: end every pod of ours that should not live."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar

import typer

from deploy.app import client, confirm, run_command
from deploy.exits import NO_ACCESS, UNCONFIRMED, CommandError
from deploy.options import Json, KeyFile, Yes
from deploy.output import log_line, print_json
from job.show.format import counted

if TYPE_CHECKING:
    from deploy.runpod.client import RunPod
    from deploy.runpod.models import Pod
    from job.record.document import Contents
    from job.store import Store

Answer = TypeVar("Answer")
AnyContents = TypeVar("AnyContents", bound="Contents")
WATCH_SECONDS = 15.0
"""How long a silent pod is watched for a sign of life: clocks may be wrong."""
DEADLINE_SLACK = timedelta(minutes=3)
"""After its deadline, for a pod to end itself."""


class Verdict(NamedTuple):
    """A pod, and why it must end, or why nobody can tell."""

    pod: Pod
    why: str


def reap(
    stale_minutes: Annotated[
        float, typer.Option(min=0, help="Without a heartbeat for so long a pod counts as dead.")
    ] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would end.")] = False,
    yes: Yes = False,
    as_json: Json = False,
    api_key_file: KeyFile = None,
) -> None:
    """End every pod of ours that should not live; leave all others of the account alone.

    Our pods' names have our prefix. A pod should not live if its run has a result or was
    cancelled, if it is past its deadline or not running, if another pod has replaced it, or if its
    run shows no sign of life.

    A run's heartbeat is read from its own store, with this machine's credentials; if the store
    cannot be read only the deadline counts.
    """
    with client(api_key_file) as api:
        pods = api.pods()
        doomed, unknown = _judge(pods, api.now(), timedelta(minutes=stale_minutes))
        for pod, why in [*doomed, *unknown]:
            log_line(f"{pod.name} ({pod.id}, ${pod.cost or 0:g}/h): {why}")
        if doomed and not dry_run:
            confirm(f"End {counted(len(doomed), 'pod')}?", yes)
            _end(api, doomed)
    if as_json:
        listed = [{"pod_id": pod.id, "name": pod.name, "why": why} for pod, why in doomed]
        left = [{"pod_id": pod.id, "name": pod.name, "why": why} for pod, why in unknown]
        ended = [] if dry_run else [pod.id for pod, _ in doomed]
        print_json({"found": listed, "ended": ended, "not_judged": left})
    elif not doomed and not unknown:
        log_line("no pod of ours is to be ended")
    if unknown:
        why = f"{counted(len(unknown), 'pod')} of ours cannot be judged; see above"
        raise CommandError(UNCONFIRMED, why, unknown[0].pod.id)


def _end(api: RunPod, doomed: list[Verdict]) -> None:
    """End all of them if possible; raises CommandError for the first that could not be ended."""
    from deploy.runpod.terminate import end_pod

    failures: list[CommandError] = []
    for pod, _ in doomed:
        try:
            end_pod(api, pod.id, pod.name, seen=True)
            log_line(f"{pod.name} is gone")
        except CommandError as error:
            failures.append(error)
            log_line(str(error))
    if failures:
        raise failures[0]


def _judge(pods: list[Pod], now: datetime, stale: timedelta) -> tuple[list[Verdict], list[Verdict]]:
    """The pods of ours that are to be ended, and those that cannot be judged."""
    from job.record.pods import PREFIX

    ours = [Case(pod) for pod in pods if pod.name.startswith(PREFIX)]
    sure = {case.pod.id: why for case in ours if (why := case.certain(now, pods))}
    rest = [case for case in ours if case.pod.id not in sure]
    silent = [case for case in rest if case.is_silent(now, stale)]
    if silent:
        before = {case.pod.id: case.pulse() for case in silent}
        time.sleep(min(WATCH_SECONDS, stale.total_seconds()))
        for case in silent:
            pulse = case.pulse()
            if pulse is not None and pulse == before[case.pod.id]:
                minutes = stale.total_seconds() / 60
                sure[case.pod.id] = f"no sign of life for {minutes:g} min"
    unknown = [
        Verdict(case.pod, "not ended: its store cannot be read, so it may be alive")
        for case in rest
        if case.pod.id not in sure and not case.readable
    ]
    unknown += [
        Verdict(case.pod, "not ended: nothing but its name shows that evengrad rented it")
        for case in rest
        if case.pod.is_dead and not case.rented_here and case.readable
    ]
    return [Verdict(case.pod, sure[case.pod.id]) for case in ours if case.pod.id in sure], unknown


class Case:
    """A pod of ours, and what its run's store says about it."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.readable = True
        """True if the store has answered every question."""
        variables = pod.variables
        self.store = variables.get("EVENGRAD_STORE")
        self.deadline = variables.get("EVENGRAD_DEADLINE")
        self.run = f"{variables.get('EVENGRAD_NAME')}/{variables.get('RUN_ID')}"
        self.rented_here = bool(self.store) and {"EVENGRAD_NAME", "RUN_ID"} <= variables.keys()
        """True if its variables or a record of this machine show that evengrad rented it."""
        if not self.rented_here:
            self._read_local_record()

    def _read_local_record(self) -> None:
        """Take from this machine's records what RunPod does not show of a pod."""
        from deploy.runs.registry import local_records

        for record in local_records():
            if any(attempt.pod_name == self.pod.name for attempt in record.attempts):
                self.store, self.run, self.rented_here = record.store, record.run, True
                self.deadline = record.deadline.isoformat()

    def certain(self, now: datetime, pods: list[Pod]) -> str | None:
        """Why the pod should not live, whatever its heartbeat says; else None."""
        from job.record.cancel import is_cancelled
        from job.record.result import Result

        if self.pod.is_dead and self.rented_here:
            return f"it is {self.pod.status} and may still cost money for its disk"
        deadline = _time(self.deadline)
        if deadline is not None and now > deadline + DEADLINE_SLACK:
            return f"past its deadline, {deadline:%Y-%m-%d %H:%M} UTC"
        if result := self._read(Result):
            return f"its run has ended: {result.reason}"
        if self._ask(lambda store: is_cancelled(store, self.run)):
            return "its run was cancelled"
        return self._replaced({pod.id for pod in pods})

    def _replaced(self, alive: set[str]) -> str | None:
        """Why another pod has the run, or the submitter gave this one up; else None."""
        from job.record.pods import PodsRecord
        from job.record.status import Boots

        record = self._read(PodsRecord)
        attempts = record.attempts if record else ()
        mine = next((a for a in attempts if a.pod_name == self.pod.name), None)
        if mine is None:
            return None
        boots = self._read(Boots)
        last = boots.pod if boots else None
        if mine.ended is not None and last != self.pod.id:
            return f"its submitter had given it up: {mine.why}"
        later = {a.pod for a in attempts if a.number > mine.number} & alive
        return "a later pod has its run" if last in later else None

    def is_silent(self, now: datetime, stale: timedelta) -> bool:
        """True if it is old enough to have a heartbeat, and its last one is old."""
        from job.record.status import Status

        created = self.pod.created or self._intended()
        if created is not None and now - created < stale:
            return False
        status = self._read(Status)
        beat = status.written_at if status else None
        return self.readable and (beat is None or now - beat > stale)

    def _intended(self) -> datetime | None:
        """When the pod was about to be asked for; None if no record says so."""
        from job.record.pods import PodsRecord

        record = self._read(PodsRecord)
        attempts = record.attempts if record else ()
        return next((a.intended for a in attempts if a.pod_name == self.pod.name), None)

    def pulse(self) -> tuple[object, ...] | None:
        """What a living run changes every few seconds; None if the store does not answer."""
        from job.record.lease import LeaseRecord
        from job.record.status import Boots, Status

        etags = [self._etag(kind.key(self.run)) for kind in (LeaseRecord, Status, Boots)]
        return tuple(etags) if self.readable else None

    def _etag(self, key: str) -> str | None:
        return self._ask(lambda store: store.get(key).etag)

    def _read(self, kind: type[AnyContents]) -> AnyContents | None:
        """A document of the run; None if there is none, or if it cannot be read."""
        return self._ask(lambda store: kind.read(store, self.run))

    def _ask(self, question: Callable[[Store], Answer]) -> Answer | None:
        """The store's answer; None for what is missing or damaged, or if it cannot be asked."""
        from job.errors import InputError
        from job.record.document import Damaged
        from job.store import Missing, StoreError, open_store

        try:
            return question(open_store(self.store or ""))
        except (Damaged, Missing):
            return None
        except (StoreError, InputError, ValueError):
            self.readable = False
            return None


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return None


if __name__ == "__main__":
    run_command("reap", reap, NO_ACCESS, UNCONFIRMED)
