"""`python -m deploy.status RUN`: the state of a run."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from deploy.app import list_pods, run_command
from deploy.exits import (
    CANCELLED,
    DEADLINE,
    GATES_FAILED,
    JOB_FAILED,
    LOST,
    NO_ACCESS,
    NOT_FINISHED,
    NOT_FOUND,
)
from deploy.options import Json, KeyFile, RunName, StoreUrl
from deploy.output import print_json


def status(
    run: RunName, store: StoreUrl = None, as_json: Json = False, api_key_file: KeyFile = None
) -> None:
    """Print the state of a run: its progress, losses and cost so far.

    Reads the store; with a key, RunPod is asked for its pod as well.
    """
    from deploy.runs.locate import locate
    from deploy.runs.state import read_state
    from deploy.runs.table import print_states

    state = read_state(locate(run, store), datetime.now(UTC), list_pods(api_key_file))
    if as_json:
        print_json(state.model_dump())
    else:
        print_states([state])
    raise typer.Exit(state.exit_code)


if __name__ == "__main__":
    run_command(
        *("status", status, NO_ACCESS, JOB_FAILED, NOT_FINISHED, NOT_FOUND, CANCELLED, DEADLINE),
        *(LOST, GATES_FAILED),
    )
