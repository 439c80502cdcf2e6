"""Looking for a pod that may or may not exist: lists lag, and one answer proves nothing."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from deploy.exits import UNCONFIRMED, CommandError
from deploy.output import Log
from deploy.runpod.client import RunPod
from deploy.runpod.errors import ApiError, BadCredentials, NotAllowed, NotThere
from deploy.runpod.models import Pod
from job.record.pods import Attempt

LISTINGS = 4
"""Lists without a pod's name after which the pod counts as not there now."""
LISTING_SECONDS = 5.0
"""Between two lists."""
LAG_SECONDS = 300.0
"""Age of a create at which its pod either is in the lists or was never made."""
UNSEEN_SECONDS = 120.0
"""How long a single pod may be unknown to the API after its create."""


def may_appear(attempt: Attempt) -> bool:
    """True if a pod may still come of this attempt: asked for lately, neither seen nor refused."""
    return attempt.is_unsure and _age(attempt) < timedelta(seconds=LAG_SECONDS)


def is_known(attempt: Attempt) -> bool:
    """True if the API must know the attempt's pod by now: a 404 means that it is gone."""
    return _age(attempt) > timedelta(seconds=UNSEEN_SECONDS)


def _age(attempt: Attempt) -> timedelta:
    """Time since the create, by the later of this machine's clock and RunPod's."""
    return datetime.now(UTC) - max(attempt.intended, attempt.created or attempt.intended)


def find_pod(api: RunPod, attempt: Attempt, log: Log) -> Pod | None:
    """The pod of an attempt, by its id if that is known, and by its name.

    None after several answers without it. Raises CommandError, ApiError.
    """
    for turn in range(LISTINGS if attempt.pod is not None else 0):
        if turn:
            time.sleep(LISTING_SECONDS)
        with suppress(NotThere):
            return api.pod(attempt.pod or "")
    return find_by_name(api, attempt.pod_name, log)


def find_by_name(api: RunPod, name: str, log: Log) -> Pod | None:
    """A pod by its exact name; None after several lists without it.

    Raises CommandError if RunPod does not list.
    """
    absences = 0
    for turn in range(2 * LISTINGS):
        if turn:
            time.sleep(LISTING_SECONDS)
        try:
            pods = api.pods()
        except (BadCredentials, NotAllowed) as refusal:
            why = f"cannot confirm whether {name} exists: {refusal}"
            raise CommandError(UNCONFIRMED, why, name) from None
        except ApiError as fault:
            log(str(fault))
            continue
        for pod in pods:
            if pod.name == name:
                return pod
        absences += 1
        if absences >= LISTINGS:
            return None
    why = f"pod {name} may exist: RunPod does not list; run `python -m deploy.reap` later"
    raise CommandError(UNCONFIRMED, why, name)
