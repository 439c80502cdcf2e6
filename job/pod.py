"""Ending the pod that this container runs in. On RunPod an exit is a restart, and billing goes on.

RunPod gives the container its own id and a key that may end this pod and little else, in
RUNPOD_POD_ID and RUNPOD_API_KEY.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NoReturn

import httpx

API = "https://api.runpod.io/v2"
PATIENCE = 60.0
"""Most seconds between two tries; and how long a pod that was deleted may still live."""
TIMEOUT = 30.0
"""Seconds for one answer."""

Say = Callable[[str], None]


def own_pod(environment: Mapping[str, str]) -> str | None:
    """Id of the pod that this process runs in; None anywhere else."""
    return environment.get("RUNPOD_POD_ID") or None


def end_forever(environment: Mapping[str, str], say: Say) -> NoReturn:
    """Delete the own pod, or else stop it, again and again: never returns.

    Accepted or not: who is still here has not ended. So success does not end the loop, and no
    error does. RUNPOD_API_URL replaces the address of the API.
    """
    pod, pause = own_pod(environment), 1.0
    while True:
        try:
            with _client(environment) as client:
                accepted = _accepted(client, "DELETE", f"pods/{pod}", None, say) or _accepted(
                    client, "POST", f"pods/{pod}/action", {"action": "stop"}, say
                )
        except Exception as error:
            # Whatever it is, an exit would be worse. Its text may hold the key.
            say(f"ending pod {pod}: {type(error).__name__}")
            accepted = False
        pause = PATIENCE if accepted else min(pause * 2, PATIENCE)
        say(f"pod {pod} has {'been told to end' if accepted else 'not ended'}; next try in "
            f"{pause:g} s")  # fmt: skip
        time.sleep(pause)


def _client(environment: Mapping[str, str]) -> httpx.Client:
    return httpx.Client(
        base_url=environment.get("RUNPOD_API_URL", API),
        headers={
            "Authorization": f"Bearer {environment.get('RUNPOD_API_KEY', '')}",
            "User-Agent": "evengrad",
        },
        timeout=TIMEOUT,
    )


def _accepted(
    client: httpx.Client, method: str, path: str, body: dict[str, str] | None, say: Say
) -> bool:
    try:
        answer = client.request(method, path, json=body)
    except httpx.HTTPError as error:
        say(f"{method} {path}: {type(error).__name__}")
        return False
    say(f"{method} {path}: {answer.status_code}")
    return answer.is_success or answer.status_code == httpx.codes.NOT_FOUND
