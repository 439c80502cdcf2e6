"""Where a run is, in a word, and the command that goes on with one that stands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from deploy.book import Book, Found
from deploy.ending import DEAD
from deploy.ends import CANCELLED, FAILED, LOST, OF_REASON
from deploy.runpod_api import Pod
from job.document import Body
from job.events import Reason
from job.lease import Holder

FRESH_SECONDS = 90.0
"""Age of a heartbeat, by this machine's clock, up to which a run counts as alive."""
STANDING = ("interrupted", "killed")
"""Phases of a run that was ended and has not ended."""
CODE_OF_PHASE = {"cancelled": CANCELLED, "failed": FAILED, "lost": LOST}
"""What `status` ends with for a run without a result."""

Documents = Mapping[str, Body | None]
"""A run's, by name; None where there is none, {} where it is damaged."""


def code_of(reason: Reason) -> int:
    """The exit code of a finished run."""
    return OF_REASON.get(reason, FAILED)


def phase(
    documents: Documents,
    book: Book | None,
    mine: list[Pod] | None,
    beat: float | None,
) -> str:
    """In a word; mine: the run's pods, None where nobody was asked."""
    if documents["result.json"]:
        return "finished"
    if book is None and not mine:  # a run of this machine has none
        mine = None
    status, lease = documents["status.json"] or {}, documents["lease.json"]
    gone = _is_gone(lease)
    fresh = beat is not None and beat < FRESH_SECONDS and not gone
    alive = fresh if mine is None else any(pod.status not in DEAD for pod in mine)
    if documents["cancel.json"]:
        return "cancelling" if alive else "cancelled"
    if "exit_code" in status and not (alive and mine):
        return "failed"
    if mine is not None and not alive:
        rented = any(attempt.pod for attempt in book.attempts) if book else True
        return "lost" if rented else "not rented"
    told = str(status.get("phase", "?"))
    if told == "interrupted" and (gone or (lease or {}).get("released")):  # however long ago
        return told
    if gone:
        return "killed"
    if beat is None:
        return "starting" if documents["boots.json"] else "submitted"
    return told if fresh else "silent"


def _is_gone(lease: Body | None) -> bool:
    """Whether the process that held it ran on this machine and does so no more."""
    if not lease or lease["released"]:
        return False
    return Holder(lease["machine"], lease["process"]).is_dead()


def again(found: Found, state: str, documents: Documents) -> str | None:
    """The command that goes on with a run that stands; a container may start it by itself."""
    if documents["pods.json"] is not None:
        stands = state in ("failed", "lost", "not rented")
        return f"python -m deploy.submit --resume {found.run_id}" if stands else None
    if state == "failed" or (state in STANDING and documents["boots.json"] is None):
        store = shlex.quote(found.store)
        return f"python -m job run SPEC --run-id {found.run_id} --store {store}"
    return None
