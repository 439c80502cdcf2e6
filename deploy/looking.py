"""Looking for a pod that may or may not exist: listings lag, and one answer proves nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from deploy.book import Attempt
from deploy.ends import UNCONFIRMED, Stop
from deploy.runpod_api import ApiError, BadCredentials, NotAllowed, NotThere, Pod, RunPod

LISTINGS = 4
"""How often a pod is looked for by its name before it counts as not there now."""
LISTING_SECONDS = 5.0
"""Between two looks."""

Say = Callable[[str], None]


def find_pod(api: RunPod, attempt: Attempt, say: Say) -> Pod | None:
    """The pod of an attempt: by its id where that is known, and by its name. Raises Stop, ApiError.

    None once it has not been there several times.
    """
    for turn in range(LISTINGS if attempt.pod is not None else 0):
        if turn:
            time.sleep(LISTING_SECONDS)
        with suppress(NotThere):
            return api.pod(attempt.pod or "")
    return look_for(api, attempt.pod_name, say)


def look_for(api: RunPod, name: str, say: Say) -> Pod | None:
    """A pod by its exact name; None once several listings have not had it.

    Raises Stop where RunPod does not list.
    """
    absences = 0
    for turn in range(2 * LISTINGS):
        if turn:
            time.sleep(LISTING_SECONDS)
        try:
            pods = api.pods()
        except (BadCredentials, NotAllowed) as no:
            raise Stop(UNCONFIRMED, f"cannot tell whether {name} exists: {no}", name) from None
        except ApiError as fault:
            say(str(fault))
            continue
        for pod in pods:
            if pod.name == name:
                return pod
        absences += 1
        if absences >= LISTINGS:
            return None
    why = f"pod {name} may exist: RunPod does not list; run `python -m deploy.reap` later"
    raise Stop(UNCONFIRMED, why, name)
