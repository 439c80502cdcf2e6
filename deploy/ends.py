"""How a command ends: exit codes, and the one line that says why."""

from __future__ import annotations

from job.events import Reason

OK, ERROR, INVALID, NO_GPU, NO_ACCESS, UNCONFIRMED = 0, 1, 2, 3, 4, 5
FAILED, NOT_FINISHED, NOT_FOUND, CANCELLED, DEADLINE, LOST, GATES_FAILED = range(100, 107)
INTERRUPTED = 130

CODES = {
    OK: "succeeded, or submitted and detached",
    ERROR: "RunPod, the store or docker did not do what was asked",
    INVALID: "usage, or an invalid spec",
    NO_GPU: "no GPU within list and ceiling",
    NO_ACCESS: "credentials or balance",
    UNCONFIRMED: "a pod may exist and could not be confirmed or ended",
    FAILED: "the job failed",
    NOT_FINISHED: "not finished",
    NOT_FOUND: "run not found",
    CANCELLED: "cancelled",
    DEADLINE: "deadline or cost cap",
    LOST: "the pod was lost",
    GATES_FAILED: "gates failed",
    INTERRUPTED: "interrupted",
}
OF_REASON: dict[Reason, int] = {
    "succeeded": OK,
    "gates_failed": GATES_FAILED,
    "cancelled": CANCELLED,
    "deadline_exceeded": DEADLINE,
    "cost_cap": DEADLINE,
    "lost": LOST,
    "no_capacity": NO_GPU,
    "interrupted": NOT_FINISHED,
}
"""Of a run that has ended; every other reason is a failure of the job."""


class Stop(Exception):
    """A command cannot go on; its message is one line without secrets."""

    def __init__(self, code: int, message: str, pod: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.pod = pod
        """Id or name of the pod that it is about, once there may be one."""


def told(*codes: int) -> str:
    """Exit codes in words, for a command's help."""
    return "Exit codes: " + "; ".join(f"{code} {CODES[code]}" for code in codes) + "."
