"""`python -m deploy.cancel RUN`: end a run for good, and see that nothing of it bills."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
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
    from deploy.book import Found
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
    from deploy.book import find
    from job.history import read_document
    from job.store import open_store

    found = find(run, store)
    where = open_store(found.store)
    with client(api_key_file) as api:
        pods = _pods(api, found)
        result = read_document(where, found.run, "result.json")
        if result is None:
            confirm(f"Cancel {found.run}, with {len(pods)} pods?", yes)
            _ask(where, found.run)
            if pods:
                result = _await(where, found.run, wait)
        _end(api, found)
    state = result["reason"] if result else "cancelled"
    if as_json:
        out({"run": found.run, "state": state, "pods_ended": [pod.id for pod in pods]})
    else:
        say(f"{found.run}: {state}; no pod of it is left")


def _ask(store: Store, run: str) -> None:
    """Write the intent, which the container reads."""
    from job.document import seal

    asked = {"schema": 1, "at": datetime.now(UTC).isoformat(), "nonce": uuid.uuid4().hex}
    store.put(f"{run}/cancel.json", seal(asked))
    say("asked the container to end")


def _await(store: Store, run: str, seconds: float) -> dict[str, Any] | None:
    from contextlib import suppress

    from job.history import read_document
    from job.store import Unavailable

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(Unavailable):
            if (result := read_document(store, run, "result.json")) is not None:
                return result
        time.sleep(1.0)
    return None


def _pods(api: RunPod, found: Found) -> list[Pod]:
    """The run's pods; raises ApiError: a failed listing is not an empty one."""
    return [pod for pod in api.pods() if found.owns(pod.name, pod.variables)]


def _end(api: RunPod, found: Found) -> None:
    """End the run's pods until several listings agree that there is none; raises Stop."""
    from deploy.rent import ABSENCES, LISTING_SECONDS, end_pod

    agreed = 0
    for _ in range(10 * ABSENCES):
        pods = _pods(api, found)
        for pod in pods:
            say(f"ending pod {pod.name}")
            end_pod(api, pod.id, pod.name)
        agreed = 0 if pods else agreed + 1
        if agreed == ABSENCES:
            return
        time.sleep(LISTING_SECONDS)
    raise Stop(UNCONFIRMED, f"pods of {found.run} come back; run `python -m deploy.reap` later")


if __name__ == "__main__":
    serve("cancel", cancel, OK, ERROR, INVALID, NO_ACCESS, UNCONFIRMED, NOT_FOUND, INTERRUPTED)
