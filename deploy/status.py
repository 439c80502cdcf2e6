"""`python -m deploy.status RUN`: where a run is."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from deploy.command import Json, KeyFile, RunName, StoreUrl, out, pods_if_any, serve
from deploy.ends import (
    CANCELLED,
    DEADLINE,
    ERROR,
    FAILED,
    GATES_FAILED,
    INVALID,
    NOT_FINISHED,
    NOT_FOUND,
    OK,
)


def status(
    run: RunName, store: StoreUrl = None, as_json: Json = False, api_key_file: KeyFile = None
) -> None:
    """Say where a run is: its state, progress, losses and cost so far.

    Works from the store; with a key RunPod is asked for its pod, too.
    """
    from deploy.find import find
    from deploy.state import read_state
    from deploy.states_shown import print_states

    state = read_state(find(run, store), datetime.now(UTC), pods_if_any(api_key_file))
    if as_json:
        out(state.model_dump())
    else:
        print_states([state])
    raise typer.Exit(state.exit_code)


if __name__ == "__main__":
    serve(
        *("status", status, OK, ERROR, INVALID, FAILED, NOT_FINISHED, NOT_FOUND),
        *(CANCELLED, DEADLINE, GATES_FAILED),
    )
