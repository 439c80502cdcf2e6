"""`python -m deploy.reap`: end every pod of ours that should not live."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from deploy.command import Json, KeyFile, Yes, client, confirm, out, say, serve
from deploy.ends import ERROR, INTERRUPTED, INVALID, NO_ACCESS, OK, UNCONFIRMED, Stop
from job.figures import counted

if TYPE_CHECKING:
    from deploy.runpod_api import Pod, RunPod

WATCH_SECONDS = 15.0
"""How long a pod that seems dead is watched for a sign of life: clocks may be wrong."""
DEADLINE_SLACK = timedelta(minutes=3)
"""In which a pod past its deadline may end itself."""


class Doomed(NamedTuple):
    """A pod that is to be ended, and why."""

    pod: Pod
    why: str


def reap(
    stale_minutes: Annotated[
        float, typer.Option(min=0, help="Without a heartbeat for so long a pod counts as dead.")
    ] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would end.")] = False,
    yes: Yes = False,
    as_json: Json = False,
    api_key_file: KeyFile = None,
) -> None:
    """End every pod of ours that should not live; leave all others of the account alone.

    Ours have names with our prefix. One should not live whose run has a result or was cancelled,
    which is past its deadline, which another pod has replaced, or whose run shows no sign of life.

    A run's heartbeat is read from its own store, with this machine's credentials; where the store
    cannot be read only the deadline counts.
    """
    with client(api_key_file) as api:
        pods = api.pods()
        doomed, unknown = _judged(pods, api.now(), timedelta(minutes=stale_minutes))
        for pod, why in [*doomed, *unknown]:
            say(f"{pod.name} ({pod.id}, ${pod.cost or 0:g}/h): {why}")
        if doomed and not dry_run:
            confirm(f"End {counted(len(doomed), 'pod')}?", yes)
            _end(api, doomed)
    if as_json:
        found = [{"pod_id": pod.id, "name": pod.name, "why": why} for pod, why in doomed]
        left = [{"pod_id": pod.id, "name": pod.name, "why": why} for pod, why in unknown]
        ended = [] if dry_run else [pod.id for pod, _ in doomed]
        out({"found": found, "ended": ended, "not_judged": left})
    elif not doomed and not unknown:
        say("no pod of ours is to be ended")
    if unknown:
        why = f"{counted(len(unknown), 'pod')} of ours cannot be judged; see above"
        raise Stop(UNCONFIRMED, why, unknown[0].pod.id)


def _end(api: RunPod, doomed: list[Doomed]) -> None:
    """End them all, as far as they can be; raises Stop for the first that could not."""
    from deploy.ending import end_pod

    failed: list[Stop] = []
    for pod, _ in doomed:
        try:
            end_pod(api, pod.id, pod.name)
            say(f"{pod.name} is gone")
        except Stop as stop:
            failed.append(stop)
            say(str(stop))
    if failed:
        raise failed[0]


def _judged(pods: list[Pod], now: datetime, stale: timedelta) -> tuple[list[Doomed], list[Doomed]]:
    """Of our pods those that are to be ended, and those of which that cannot be told."""
    from deploy.book import PREFIX

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
        Doomed(case.pod, "not ended: its store cannot be read, so nobody knows whether it lives")
        for case in rest
        if case.pod.id not in sure and not case.readable
    ]
    return [Doomed(case.pod, sure[case.pod.id]) for case in ours if case.pod.id in sure], unknown


class Case:
    """A pod of ours, and what its run's store says of it."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.readable = True
        """Whether all that was asked of the store was answered."""
        told = pod.variables
        self.store, self.deadline = told.get("EVENGRAD_STORE"), told.get("EVENGRAD_DEADLINE")
        self.run = f"{told.get('EVENGRAD_NAME')}/{told.get('RUN_ID')}"
        if not self.store or {"EVENGRAD_NAME", "RUN_ID"} - told.keys():
            self._remember()

    def _remember(self) -> None:
        """What RunPod does not show of a pod, this machine's books may know."""
        from deploy.book import remembered

        for book in remembered():
            if any(attempt.pod_name == self.pod.name for attempt in book.attempts):
                self.store, self.run = book.store, book.run
                self.deadline = book.deadline.isoformat()

    def certain(self, now: datetime, pods: list[Pod]) -> str | None:
        """Why the pod should not live, whatever its heartbeat says."""
        from deploy.ending import DEAD

        if self.pod.status in DEAD:
            return f"it is {self.pod.status} and may still bill for its disk"
        deadline = _time(self.deadline)
        if deadline is not None and now > deadline + DEADLINE_SLACK:
            return f"past its deadline, {deadline:%Y-%m-%d %H:%M} UTC"
        if result := self._document("result.json"):
            return f"its run has ended: {result['reason']}"
        if self._document("cancel.json"):
            return "its run was cancelled"
        return self._replaced({pod.id for pod in pods})

    def _replaced(self, alive: set[str]) -> str | None:
        """Whether the run's book has closed this pod, or a later one has begun and is there."""
        from deploy.book import read_book

        book = read_book(self._document("pods.json"))
        attempts = book.attempts if book else ()
        mine = next((a for a in attempts if a.pod_name == self.pod.name), None)
        if mine is None:
            return None
        last = (self._document("boots.json") or {}).get("pod")
        if mine.ended is not None and last != self.pod.id:
            return f"its submitter had given it up: {mine.why}"
        later = {a.pod for a in attempts if a.number > mine.number} & alive
        return "a later pod has its run" if last in later else None

    def is_silent(self, now: datetime, stale: timedelta) -> bool:
        """Whether it is old enough to have beaten, and its last heartbeat is old."""
        if self.pod.created is not None and now - self.pod.created < stale:
            return False
        status = self._document("status.json")
        beat = _time((status or {}).get("heartbeat"))
        return self.readable and (beat is None or now - beat > stale)

    def pulse(self) -> tuple[object, ...] | None:
        """What a living run changes every few seconds; None where the store does not say."""
        documents = [self._document(n) for n in ("lease.json", "status.json", "boots.json")]
        nonces = tuple(document and document.get("nonce") for document in documents)
        return nonces if self.readable else None

    def _document(self, name: str) -> dict[str, object] | None:
        """One of the run's documents; None where there is none, or where that cannot be told."""
        from job.document import Damaged
        from job.faults import InputError
        from job.history import read_document
        from job.store import StoreError, open_store

        try:
            return read_document(open_store(self.store or ""), self.run, name)
        except Damaged:
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
    serve("reap", reap, OK, ERROR, INVALID, NO_ACCESS, UNCONFIRMED, INTERRUPTED)
