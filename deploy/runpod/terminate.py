"""Deletes a pod, and checks until RunPod reports it gone."""

from __future__ import annotations

import time
from contextlib import suppress

from deploy.exits import UNCONFIRMED, CommandError
from deploy.runpod import lookup
from deploy.runpod.client import RunPod
from deploy.runpod.errors import ApiError, BadCredentials, NotAllowed, NotThere

ABSENCES = 3
"""Answers in a row that there is no such pod, after which there is none: one may be lag."""
GONE_SECONDS = 2.0
"""Between two looks at a pod that was deleted."""
END_SECONDS = 300.0
"""How long a pod is deleted again and again."""


def end_pod(api: RunPod, pod: str, name: str, seen: bool = False) -> None:
    """Delete a pod until it is gone; raises CommandError if it may still cost money.

    seen: whether the API has ever known it, in a list or a read, or is old enough to. A pod that
    neither a read nor an accepted delete has shown may only be unknown yet: it is deleted again
    for lookup.UNSEEN_SECONDS. If a delete is refused the pod is at least stopped.
    """
    begun, absences, last = time.monotonic(), 0, ""
    while time.monotonic() < begun + END_SECONDS:
        try:
            seen = api.delete(pod) or seen
            seen, absences = _look(api, pod, seen, absences)
            waited = time.monotonic() - begun
            if absences >= ABSENCES and (seen or waited > lookup.UNSEEN_SECONDS):
                return
        except BadCredentials as refusal:
            why = f"pod {name} may still cost money: {refusal}"
            raise CommandError(UNCONFIRMED, why, pod) from None
        except ApiError as fault:  # a failed look means nothing
            last = str(fault)
            with suppress(ApiError):
                if isinstance(fault, NotAllowed):
                    api.stop(pod)
        time.sleep(GONE_SECONDS)
    why = (
        f"pod {name} ({pod}) may still cost money: {last or 'it does not end'}; "
        "run `python -m deploy.reap` later"
    )
    raise CommandError(UNCONFIRMED, why, pod)


def _look(api: RunPod, pod: str, seen: bool, absences: int) -> tuple[bool, int]:
    """If the pod was ever seen, and how many checks in a row it was missing."""
    try:
        gone = api.pod(pod).status == "TERMINATED"
    except NotThere:
        return seen, absences + 1
    return True, absences + 1 if gone else 0
