"""`python -m deploy.list`: all runs that this machine knows, and every pod of ours that bills."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

import typer

from deploy.command import Json, KeyFile, out, pods_if_any, say, serve
from deploy.ends import ERROR, INVALID, NO_ACCESS, OK, Stop


def list_runs(
    stale: Annotated[
        bool, typer.Option("--stale", help="Only pods of ours without a live heartbeat.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Finished runs as well.")] = False,
    as_json: Json = False,
    api_key_file: KeyFile = None,
) -> None:
    """List runs that have not finished, and whatever pods of ours bill."""
    from deploy.book import PREFIX, Found, remembered
    from deploy.state import State, bare, read_state
    from deploy.states_shown import print_states
    from job.faults import InputError
    from job.store import StoreError

    pods = pods_if_any(api_key_file, required=stale)
    known = {(b.name, b.run_id): b.store for b in remembered()}
    for pod in pods or ():
        mine = pod.variables
        if pod.name.startswith(PREFIX) and {"EVENGRAD_NAME", "RUN_ID"} <= mine.keys():
            known[mine["EVENGRAD_NAME"], mine["RUN_ID"]] = mine.get("EVENGRAD_STORE", "")
    states: list[State] = []
    told: set[str | None] = set()
    for (name, run_id), store in known.items():
        found = Found(name=name, run_id=run_id, store=store)
        with suppress(Stop):  # a book whose run is nowhere any more
            try:
                states.append(read_state(found, datetime.now(UTC), pods))
                told |= {p.id for p in pods or () if found.owns(p.name, p.variables)}
            except (StoreError, InputError) as fault:
                say(f"{found.run}: {fault}")
    ended = ("finished", "cancelled", "failed", "lost", "not rented")
    shown = [s for s in states if everything or s.pod_listed or s.state not in ended]
    if stale:
        shown = [s for s in states if s.pod_listed and not s.is_fresh]
    # Whatever bills is shown, also where nothing can be said of its run.
    shown += [bare(p) for p in pods or () if p.name.startswith(PREFIX) and p.id not in told]
    if as_json:
        asked = pods is not None
        out({"runs": [state.model_dump() for state in shown], "pods_asked": asked})
    elif shown:
        print_states(shown)
    else:
        say("nothing unfinished is known here" + ("" if pods is None else ", and no pod bills"))


if __name__ == "__main__":
    serve("list", list_runs, OK, ERROR, INVALID, NO_ACCESS)
