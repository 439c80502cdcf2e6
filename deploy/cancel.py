"""`python -m deploy.cancel RUN`: end a run for good, and see that none of its pods costs money."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from deploy.app import client, confirm, run_command
from deploy.exits import NO_ACCESS, NOT_FOUND, UNCONFIRMED, CommandError
from deploy.options import Json, KeyFile, RunName, StoreUrl, Yes
from deploy.output import log_line, print_json

if TYPE_CHECKING:
    from deploy.runpod.client import RunPod
    from deploy.runpod.models import Pod
    from job.record.pods import PodsRecord, RunRef
    from job.record.result import Result
    from job.store import Encryption, Store, StoreError

Read = TypeVar("Read")
POLL_SECONDS = 1.0
"""Between two looks whether the container has stored its end."""
POD_POLLS = 5
"""Such looks between two questions to RunPod whether the container still runs."""
ROUNDS = 30
"""Lists of pods before a run counts as one whose pods come back."""


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
    """Cancel a run: ask its container to end, end its pods, and look for them once more.

    The request stays in the store: no submitter gives the run another pod.
    """
    from deploy.runpod.errors import ApiError
    from deploy.runs.locate import locate
    from job.store import open_store

    ref = locate(run, store)
    opened = open_store(ref.store, stored_encryption(open_store(ref.store), ref.run))
    result, unasked = _result(opened, ref.run), None
    if result is None:
        confirm(f"Cancel {ref.run}?", yes)
        unasked = _request_end(opened, ref.run)  # first: the container needs nobody else to end
    try:
        with client(api_key_file) as api:
            appeared = set[str]()
            if result is None and unasked is None:
                appeared = {
                    pod.name for pod in _pods(api, ref)
                }  # they may end before the next list
                result = _wait_for_result(api, ref, opened, wait)
            ended = end_pods(api, ref, opened, appeared)
    except (ApiError, CommandError) as fault:
        may_live = isinstance(fault, CommandError) and fault.code == UNCONFIRMED
        if result is not None and not may_live and _is_closed(opened, ref):
            log_line(f"{ref.run} has finished ({result.reason}); RunPod was not asked: {fault}")
            return
        asked = "has finished" if result else "could not be asked" if unasked else "is asked"
        asked += "" if result else " to end"
        why = f"{ref.run} {asked}, its pods could not all be ended: {fault}"
        raise CommandError(UNCONFIRMED, why, getattr(fault, "pod", None)) from fault
    if unasked is not None:
        log_line(f"{ref.run}: no pod of it is left, but a submitter may rent another: cancel again")
        raise unasked
    state = result.reason if result else "cancelled"
    if as_json:
        print_json({"run": ref.run, "state": state, "pods_ended": ended})
    else:
        log_line(f"{ref.run}: {state}; no pod of it is left")


def stored_encryption(store: Store, run: str) -> Encryption | None:
    """The encryption that the run's spec asks for; None if the spec cannot be read."""
    from job.errors import InputError
    from job.spec.read import parse_spec
    from job.store import StoreError

    with suppress(StoreError, InputError):
        text = store.get(f"{run}/spec.json").data.decode("utf-8", "replace")
        return parse_spec(text, "spec.json").checkpoint.encryption
    return None


def _request_end(store: Store, run: str) -> StoreError | None:
    """Store the request, which the container reads; returns why that failed."""
    from job.record.cancel import request_cancel
    from job.store import StoreError

    try:
        request_cancel(store, run)
    except StoreError as fault:  # its pods cost money all the same
        log_line(f"the container cannot be asked to end: {fault}")
        return fault
    log_line("asked the container to end")
    return None


def _wait_for_result(api: RunPod, run: RunRef, store: Store, seconds: float) -> Result | None:
    """The run's result; None once no container is left that could store one, or time is over."""
    until, turn = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        if (result := _result(store, run.run)) is not None:
            return result
        if turn % POD_POLLS == 0 and not _container_runs(api, run, store):
            return None
        turn += 1
        time.sleep(POLL_SECONDS)
    return _result(store, run.run)


def _container_runs(api: RunPod, run: RunRef, store: Store) -> bool:
    """True if a container of the run has begun, in a pod that RunPod does not call dead."""
    begun = _begun_pod(store, run.run)
    return any(pod.id == begun and not pod.is_dead for pod in _pods(api, run))


def _pods(api: RunPod, run: RunRef) -> list[Pod]:
    """The run's pods; raises ApiError: a failed list is not an empty one."""
    return [pod for pod in api.pods() if run.owns(pod.name, pod.variables)]


def _pods_record(store: Store, run: RunRef) -> PodsRecord:
    """The run's pods record; an empty one for a run that was never submitted."""
    from job.record.pods import PodsRecord

    empty = PodsRecord(**dict(run), spec_hash="", image="", deadline=datetime.now(UTC))
    return _or_none(lambda: PodsRecord.read(store, run.run)) or empty


def _is_closed(store: Store, run: RunRef) -> bool:
    """True if the run's pods record says that no pod is left; False if it cannot be read."""
    from job.record.document import Damaged
    from job.record.pods import PodsRecord
    from job.store import StoreError

    with suppress(Damaged, StoreError):
        record = PodsRecord.read(store, run.run)
        return record is None or not record.open
    return False


def _result(store: Store, run: str) -> Result | None:
    """The run's end, if it has one."""
    from job.record.result import Result

    return _or_none(lambda: Result.read(store, run))


def _begun_pod(store: Store, run: str) -> str | None:
    """Id of the pod whose container has begun last."""
    from job.record.status import Boots

    boots = _or_none(lambda: Boots.read(store, run))
    return boots.pod if boots else None


def _or_none(read: Callable[[], Read | None]) -> Read | None:
    """What `read` returns; None if it cannot be read: pods are ended all the same."""
    from job.record.document import Damaged
    from job.store import StoreError

    try:
        return read()
    except (Damaged, StoreError) as fault:
        log_line(str(fault))
        return None


def end_pods(api: RunPod, run: RunRef, store: Store, appeared: Collection[str] = ()) -> list[str]:
    """End the pods that the run's record names or RunPod lists, until none is left.

    A pod that was ended is not looked for again, whatever lists still show. One list without any
    other pod is enough, unless a pod may still appear: then it takes ABSENCES lists in a row.
    appeared: names of pods that an earlier list had; gone from the next, they are gone.
    Returns the ids of the pods that were ended; raises CommandError, ApiError.
    """
    from deploy.runpod.lookup import LISTING_SECONDS, is_known, may_appear
    from deploy.runpod.terminate import ABSENCES, end_pod

    begun = _begun_pod(store, run.run)
    ended, names, absences = list[str](), set[str](), 0
    for _ in range(ROUNDS):
        attempts = [a for a in _pods_record(store, run).open if a.pod_name not in names]
        listed = {pod.id: pod.name for pod in _pods(api, run) if pod.id not in ended}
        left = {a.pod: a.pod_name for a in attempts if a.pod is not None} | listed
        seen = {a.pod for a in attempts if is_known(a) or a.pod == begun} | listed.keys()
        for pod, name in left.items():
            log_line(f"ending pod {name}")
            end_pod(api, pod, name, pod in seen)
            ended.append(pod)
            names.add(name)
        if left:
            absences = 0
            continue
        absences += 1
        unsure = [a for a in attempts if may_appear(a) and a.pod_name not in appeared]
        if absences >= (ABSENCES if unsure else 1):
            break
        time.sleep(LISTING_SECONDS)
    else:
        raise CommandError(UNCONFIRMED, f"pods of {run.run} come back; run `deploy.reap` later")
    if unsure:
        late = ", ".join(a.pod_name for a in unsure)
        why = f"pod {late} may yet appear: run `python -m deploy.reap` in some minutes"
        raise CommandError(UNCONFIRMED, why, unsure[-1].pod_name)
    return ended


if __name__ == "__main__":
    run_command("cancel", cancel, NO_ACCESS, UNCONFIRMED, NOT_FOUND)
