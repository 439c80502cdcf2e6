"""`python -m deploy.reap`: end every pod of ours that should not live."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from deploy.command import Json, KeyFile, Yes, client, confirm, out, say, serve
from deploy.ends import ERROR, INTERRUPTED, INVALID, NO_ACCESS, OK, UNCONFIRMED, Stop

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
        doomed = _doomed(api.pods(), timedelta(minutes=stale_minutes))
        for pod, why in doomed:
            say(f"{pod.name} ({pod.id}, ${pod.cost or 0:g}/h): {why}")
        if doomed and not dry_run:
            confirm(f"End {len(doomed)} pods?", yes)
            _end(api, doomed)
    if as_json:
        found = [{"pod_id": pod.id, "name": pod.name, "why": why} for pod, why in doomed]
        out({"found": found, "ended": [] if dry_run else [pod.id for pod, _ in doomed]})
    elif not doomed:
        say("no pod of ours is to be ended")


def _end(api: RunPod, doomed: list[Doomed]) -> None:
    """End them all, as far as they can be; raises Stop for the first that could not."""
    from deploy.rent import end_pod

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


def _doomed(pods: list[Pod], stale: timedelta) -> list[Doomed]:
    from deploy.book import PREFIX

    ours = [pod for pod in pods if pod.name.startswith(PREFIX)]
    now = datetime.now(UTC)
    sure = {pod.id: why for pod in ours if (why := _certain(pod, now))}
    silent = [pod for pod in ours if pod.id not in sure and _is_silent(pod, now, stale)]
    if silent:
        before = {pod.id: _pulse(pod) for pod in silent}
        time.sleep(min(WATCH_SECONDS, stale.total_seconds()))
        for pod in silent:
            pulse = _pulse(pod)
            if pulse is not None and pulse == before[pod.id]:
                minutes = stale.total_seconds() / 60
                sure[pod.id] = f"no sign of life for {minutes:g} min"
    return [Doomed(pod, sure[pod.id]) for pod in ours if pod.id in sure]


def _certain(pod: Pod, now: datetime) -> str | None:
    """Why a pod should not live, whatever its heartbeat says."""
    from deploy.rent import DEAD

    if pod.status in DEAD:
        return f"it is {pod.status} and may still bill for its disk"
    deadline = _time(pod.variables.get("EVENGRAD_DEADLINE"))
    if deadline is not None and now > deadline + DEADLINE_SLACK:
        return f"past its deadline, {deadline:%Y-%m-%d %H:%M} UTC"
    result = _document(pod, "result.json")
    if result:
        return f"its run has ended: {result['reason']}"
    if _document(pod, "cancel.json"):
        return "its run was cancelled"
    return _replaced(pod)


def _replaced(pod: Pod) -> str | None:
    """Whether the run's book has closed this pod, or a later one has begun."""
    from deploy.book import read_book

    book = read_book(_document(pod, "pods.json"))
    mine = next((a for a in book.attempts if a.pod_name == pod.name), None) if book else None
    if book is None or mine is None:
        return None
    if mine.ended is not None:
        return f"its submitter had given it up: {mine.why}"
    boots = _document(pod, "boots.json") or {}
    later = [a.pod for a in book.attempts if a.number > mine.number and a.pod is not None]
    return "a later pod has its run" if boots.get("pod") in later else None


def _is_silent(pod: Pod, now: datetime, stale: timedelta) -> bool:
    """Whether it is old enough to have beaten, and its last heartbeat is old."""
    if pod.created is None or now - pod.created.astimezone(UTC) < stale:
        return False
    status = _document(pod, "status.json")
    if status is None:  # the store says that there is none
        return True
    beat = _time(status.get("heartbeat"))
    return bool(status) and (beat is None or now - beat > stale)


def _pulse(pod: Pod) -> tuple[object, ...] | None:
    """What a living run changes every few seconds; None where the store does not say."""
    documents = [_document(pod, name) for name in ("lease.json", "status.json", "boots.json")]
    if any(document == {} for document in documents):
        return None
    return tuple(document and document.get("nonce") for document in documents)


def _document(pod: Pod, name: str) -> dict[str, object] | None:
    """One of the run's documents; None where there is none, {} where that cannot be told."""
    from job.document import Damaged
    from job.faults import InputError
    from job.history import read_document
    from job.store import StoreError, open_store

    told = pod.variables
    run = f"{told.get('EVENGRAD_NAME')}/{told.get('RUN_ID')}"
    try:
        return read_document(open_store(told.get("EVENGRAD_STORE", "")), run, name)
    except (StoreError, Damaged, InputError, ValueError):
        return {}


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return None


if __name__ == "__main__":
    serve("reap", reap, OK, ERROR, INVALID, NO_ACCESS, UNCONFIRMED, INTERRUPTED)
