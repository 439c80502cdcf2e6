"""`python -m deploy.cancel RUN`: end a run for good, and see that nothing of it bills."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.command import Json, KeyFile, RunName, StoreUrl, Yes, client, confirm, out, say, serve
from deploy.ends import (
    ERROR,
    INTERRUPTED,
    INVALID,
    NO_ACCESS,
    NOT_FOUND,
    OK,
    UNCONFIRMED,
    Stop,
)

if TYPE_CHECKING:
    from deploy.book import Book, Found
    from deploy.runpod_api import Pod, RunPod
    from job.store import Store


def cancel(
    run: RunName,
    store: StoreUrl = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds for the job to store its end by itself.")
    ] = 45.0,
    yes: Yes = False,
    as_json: Json = False,
    api_key_file: KeyFile = None,
) -> None:
    """Cancel a run: its container is asked to end, then its pods are, and looked for once more.

    The request stays in the store: no submitter gives the run another pod.
    """
    from deploy.find import find
    from deploy.runpod_api import ApiError
    from job.store import open_store

    found = find(run, store)
    where = open_store(found.store)
    result = _document(where, found.run, "result.json")
    if result is None:
        confirm(f"Cancel {found.run}?", yes)
        _ask(where, found.run)  # first of all: the container needs nobody else to end
    try:
        with client(api_key_file) as api:
            if result is None and _pods(api, found):
                result = _await(where, found.run, wait)
            ended = _end(api, found, where)
    except (ApiError, Stop) as fault:
        if result is not None and not _book(where, found).open:
            say(f"{found.run} has finished ({result['reason']}); RunPod was not asked: {fault}")
            return
        why = f"{found.run} is asked to end, its pods could not be looked for: {fault}"
        raise Stop(UNCONFIRMED, why, getattr(fault, "pod", None)) from fault
    state = result["reason"] if result else "cancelled"
    if as_json:
        out({"run": found.run, "state": state, "pods_ended": ended})
    else:
        say(f"{found.run}: {state}; no pod of it is left")


def _ask(store: Store, run: str) -> None:
    """Write the intent, which the container reads."""
    from job.document import seal

    asked = {"schema": 1, "at": datetime.now(UTC).isoformat(), "nonce": uuid.uuid4().hex}
    store.put(f"{run}/cancel.json", seal(asked))
    say("asked the container to end")


def _await(store: Store, run: str, seconds: float) -> dict[str, Any] | None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (result := _document(store, run, "result.json")) is not None:
            return result
        time.sleep(1.0)
    return None


def _pods(api: RunPod, found: Found) -> list[Pod]:
    """The run's pods; raises ApiError: a failed listing is not an empty one."""
    return [pod for pod in api.pods() if found.owns(pod.name, pod.variables)]


def _book(store: Store, found: Found) -> Book:
    """The run's pods; an empty book for one that was never submitted."""
    from deploy.book import Book, read_book

    nobody = Book(**dict(found), spec_hash="", image="", deadline=datetime.now(UTC))
    return read_book(_document(store, found.run, "pods.json")) or nobody


def _document(store: Store, run: str, name: str) -> dict[str, Any] | None:
    """One of the run's; None where it is not or cannot be read: pods are ended all the same."""
    from job.document import Damaged
    from job.history import read_document
    from job.store import StoreError

    try:
        return read_document(store, run, name)
    except (Damaged, StoreError) as fault:
        say(str(fault))
        return None


def _end(api: RunPod, found: Found, store: Store) -> list[str]:
    """End the run's pods, those of its book and whatever is listed; raises Stop.

    Until several listings agree that there is none. Returns the ids of those that were ended.
    """
    from deploy.ending import ABSENCES, end_pod
    from deploy.looking import LISTING_SECONDS
    from deploy.rent import LAG_SECONDS

    opened = _book(store, found).open
    known = {a.pod: a.pod_name for a in opened if a.pod is not None}
    agreed, ended = 0, list[str]()
    for _ in range(10 * ABSENCES):
        known |= {pod.id: pod.name for pod in _pods(api, found)}
        for pod, name in known.items():
            say(f"ending pod {name}")
            end_pod(api, pod, name)
            ended.append(pod)
        agreed, known = (0 if known else agreed + 1), {}
        if agreed == ABSENCES:
            break
        time.sleep(LISTING_SECONDS)
    else:
        raise Stop(UNCONFIRMED, f"pods of {found.run} come back; run `deploy.reap` later")
    lately = datetime.now(UTC) - timedelta(seconds=LAG_SECONDS)
    if late := [a.pod_name for a in opened if a.is_unsure and a.intended > lately]:
        why = f"pod {', '.join(late)} may yet come to life: run `python -m deploy.reap` in minutes"
        raise Stop(UNCONFIRMED, why, late[-1])
    return ended


if __name__ == "__main__":
    serve("cancel", cancel, OK, ERROR, INVALID, NO_ACCESS, UNCONFIRMED, NOT_FOUND, INTERRUPTED)
