"""Deleting the pod that this container runs in: on RunPod an exit is a restart, and bills on.

RunPod gives the container its own id and a key that may delete this pod and little else, in
RUNPOD_POD_ID and RUNPOD_API_KEY.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NoReturn

import httpx

from job.env import POD_KEY, own_pod

API = "https://api.runpod.io/v2"
PATIENCE = 60.0
"""Most seconds between two tries; and how long a deleted pod may go on running."""
TIMEOUT = 30.0
"""Seconds for one answer."""

Log = Callable[[str], None]


def delete_forever(environment: Mapping[str, str], log: Log, cause: str) -> NoReturn:
    """Delete this pod, or else stop it, again and again: never returns.

    A process that still runs has not been ended, whatever the API answered. So neither success nor
    an error ends the loop. After each try `cause`, why the run ended, is logged again, so that it
    stays the log's last line. RUNPOD_API_URL replaces the address of the API.
    """
    pod, pause = own_pod(environment), 1.0
    while True:
        try:
            with _client(environment) as client:
                accepted = _accepted(client, "DELETE", f"pods/{pod}", None, log) or _accepted(
                    client, "POST", f"pods/{pod}/action", {"action": "stop"}, log
                )
        except Exception as error:
            # An exit would be worse than any error. The error's text may hold the key.
            log(f"deleting pod {pod}: {type(error).__name__}")
            accepted = False
        pause = PATIENCE if accepted else min(pause * 2, PATIENCE)
        answer = "has accepted" if accepted else "has not accepted"
        log(f"RunPod {answer} the end of pod {pod}; next try in {pause:g} s")
        log(cause)
        time.sleep(pause)


def _client(environment: Mapping[str, str]) -> httpx.Client:
    return httpx.Client(
        base_url=environment.get("RUNPOD_API_URL", API),
        headers={
            "Authorization": f"Bearer {environment.get(POD_KEY, '')}",
            "User-Agent": "evengrad",
        },
        timeout=TIMEOUT,
    )


def _accepted(
    client: httpx.Client, method: str, path: str, body: dict[str, str] | None, log: Log
) -> bool:
    """True if the API did it, or knows no such pod."""
    try:
        answer = client.request(method, path, json=body)
    except httpx.HTTPError as error:
        log(f"{method} {path}: {type(error).__name__}")
        return False
    log(f"{method} {path}: {answer.status_code}")
    return answer.is_success or answer.status_code == httpx.codes.NOT_FOUND
