"""Ending a pod for good: told again and again until nothing says any more that it is there."""

from __future__ import annotations

import time
from contextlib import suppress

from deploy.ends import UNCONFIRMED, Stop
from deploy.runpod_api import ApiError, BadCredentials, NotAllowed, NotThere, RunPod

ABSENCES = 3
"""So many answers in a row that there is no such pod mean that there is none: one may be lag."""
GONE_SECONDS = 2.0
"""Between two looks at a pod that was ended."""
UNSEEN_SECONDS = 120.0
"""How long a new pod that could never be read may just not be known yet."""
END_SECONDS = 300.0
"""How long the end of a pod is insisted on."""
DEAD = frozenset({"EXITED", "ERROR", "TERMINATED"})
"""Statuses of a pod whose container does not run."""


def end_pod(api: RunPod, pod: str, name: str, seen: bool = False) -> None:
    """Delete a pod until it is gone; raises Stop where it may still bill.

    seen: whether it is known to have existed. One that never was, neither by a read nor by a
    delete that was accepted, may only not be known yet, and is insisted on for UNSEEN_SECONDS.
    Where a delete is refused the pod is at least stopped.
    """
    begun, absences, last = time.monotonic(), 0, ""
    while time.monotonic() < begun + END_SECONDS:
        try:
            seen = api.delete(pod) or seen
            seen, absences = _look(api, pod, seen, absences)
            waited = time.monotonic() - begun
            if absences >= ABSENCES and (seen or waited > UNSEEN_SECONDS):
                return
        except BadCredentials as no:
            raise Stop(UNCONFIRMED, f"pod {name} may still bill: {no}", pod) from None
        except ApiError as fault:  # a failed look means nothing
            last = str(fault)
            with suppress(ApiError):
                if isinstance(fault, NotAllowed):
                    api.stop(pod)
        time.sleep(GONE_SECONDS)
    why = f"pod {name} ({pod}) may still bill: {last or 'it does not end'}; run `deploy.reap` later"
    raise Stop(UNCONFIRMED, why, pod)


def _look(api: RunPod, pod: str, seen: bool, absences: int) -> tuple[bool, int]:
    """Whether it was ever seen, and how often in a row it was not there."""
    try:
        gone = api.pod(pod).status == "TERMINATED"
    except NotThere:
        return seen, absences + 1
    return True, absences + 1 if gone else 0
