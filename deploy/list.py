"""`python -m deploy.list`: the runs that this machine knows, and every pod that costs money."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.app import list_pods, run_command
from deploy.exits import NO_ACCESS, CommandError
from deploy.options import Json, KeyFile
from deploy.output import log_line, print_json

if TYPE_CHECKING:
    from deploy.runpod.models import Pod
    from deploy.runs.state import RunState
    from job.record.pods import PodsRecord, RunRef
    from job.store import Store

AT_ONCE = 8
"""Runs whose documents are read at the same time."""
ENDED = ("finished", "cancelled", "failed", "lost", "not rented")


def list_runs(
    stale: Annotated[
        bool, typer.Option("--stale", help="Only pods of ours without a live heartbeat.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Finished runs as well.")] = False,
    as_json: Json = False,
    api_key_file: KeyFile = None,
) -> None:
    """List runs that have not finished, and all pods of ours, which cost money."""
    from deploy.runs.state import state_of_pod
    from deploy.runs.table import print_states
    from job.record.pods import PREFIX

    pods = list_pods(api_key_file, required=stale)
    ours = [pod for pod in pods or () if pod.name.startswith(PREFIX)]
    runs, states = known_states(pods)
    rows = [s for s in states if everything or s.pod_listed or s.state not in ENDED]
    if stale:
        rows = [s for s in states if s.pod_listed and not s.is_fresh]
    # Whatever costs money is listed, also if its run cannot be read.
    owned = {p.id for p in ours for run in runs if run.owns(p.name, p.variables)}
    rows += [state_of_pod(pod) for pod in ours if pod.id not in owned]
    if as_json:
        print_json({"runs": [s.model_dump() for s in rows], "pods_asked": pods is not None})
    elif rows:
        print_states(rows)
    else:
        pods_too = "" if pods is None else ", and no pod of ours costs money"
        log_line(f"no unfinished run is known here{pods_too}")


def known_states(pods: list[Pod] | None) -> tuple[list[RunRef], list[RunState]]:
    """The runs that could be read, of this machine's records and of the pods, and their states.

    A run that was seen to have finished is not looked up again, unless a pod of it is listed.
    """
    from deploy.runs.finished import FinishedRuns
    from deploy.runs.registry import local_records

    now, index, records = datetime.now(UTC), FinishedRuns(), local_records()
    runs: dict[tuple[str, str], RunRef | PodsRecord] = {(r.name, r.run_id): r for r in records}
    runs |= _runs_of(pods or ())
    listed = {key for key, run in runs.items() if _has_pod(run, pods or ())}
    finished = {
        (record.name, record.run_id): state
        for record in records
        if (record.name, record.run_id) not in listed
        and (state := index.state(record, now)) is not None
    }
    unread = [run for key, run in runs.items() if key not in finished]
    states = dict(_read_states(unread, now, pods)) | finished
    for record in records:
        if (record.name, record.run_id) in states.keys() - finished.keys():
            index.add(record, states[record.name, record.run_id], now)
    index.save(records)
    read = [key for key in runs if key in states]
    asked = {} if pods is None else {"pod_listed": False}
    return [runs[key] for key in read], [
        states[key].model_copy(update=asked) if key in finished else states[key] for key in read
    ]


def _runs_of(pods: Iterable[Pod]) -> dict[tuple[str, str], RunRef]:
    """The runs that pods of ours belong to, by their variables."""
    from job.record.pods import PREFIX, RunRef

    runs = {}
    for pod in pods:
        variables = pod.variables
        if pod.name.startswith(PREFIX) and {"EVENGRAD_NAME", "RUN_ID"} <= variables.keys():
            name, run_id = variables["EVENGRAD_NAME"], variables["RUN_ID"]
            store = variables.get("EVENGRAD_STORE", "")
            runs[name, run_id] = RunRef(name=name, run_id=run_id, store=store)
    return runs


def _has_pod(run: RunRef, pods: Iterable[Pod]) -> bool:
    return any(run.owns(pod.name, pod.variables) for pod in pods)


def _read_states(
    runs: list[RunRef], now: datetime, pods: list[Pod] | None
) -> list[tuple[tuple[str, str], RunState]]:
    """States by name and run id; runs that cannot be read are left out, with a line why."""
    from deploy.runs.state import read_state
    from job.errors import InputError
    from job.store import StoreError, open_store

    stores: dict[str, Store | None] = {}
    for url in {run.store for run in runs}:
        try:
            stores[url] = open_store(url)
        except (StoreError, InputError, ValueError) as fault:
            log_line(f"{url or 'a run without a store'}: {fault}")
            stores[url] = None

    def read(run: RunRef) -> RunState | None:
        with suppress(CommandError):  # a record whose run is in no store any more
            try:
                if (store := stores[run.store]) is not None:
                    return read_state(run, now, pods, store)
            except (StoreError, InputError) as fault:
                log_line(f"{run.run}: {fault}")
        return None

    with ThreadPoolExecutor(AT_ONCE) as threads:
        states = list(threads.map(read, runs))
    pairs = zip(runs, states, strict=True)
    return [((run.name, run.run_id), state) for run, state in pairs if state is not None]


if __name__ == "__main__":
    run_command("list", list_runs, NO_ACCESS)
