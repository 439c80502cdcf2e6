"""How a command ends: exit codes, and the one line that says why."""

from __future__ import annotations

OK, ERROR, INVALID, NO_GPU, NO_ACCESS, UNCONFIRMED = 0, 1, 2, 3, 4, 5
JOB_FAILED, NOT_FINISHED, NOT_FOUND, CANCELLED, DEADLINE, LOST, GATES_FAILED = range(100, 107)
INTERRUPTED = 130

CODES = {
    OK: "succeeded, or submitted and detached",
    ERROR: "RunPod, the store, the registry or docker did not do what was asked",
    INVALID: "usage, or an invalid spec",
    NO_GPU: "no GPU within list and ceiling",
    NO_ACCESS: "credentials or balance",
    UNCONFIRMED: "a pod may exist and could not be confirmed or ended",
    JOB_FAILED: "the job failed",
    NOT_FINISHED: "not finished",
    NOT_FOUND: "run not found",
    CANCELLED: "cancelled",
    DEADLINE: "the deadline was over",
    LOST: "the pod was lost",
    GATES_FAILED: "gates failed",
    INTERRUPTED: "interrupted",
}
_BY_REASON: dict[str, int] = {
    "succeeded": OK,
    "gates_failed": GATES_FAILED,
    "cancelled": CANCELLED,
    "deadline_exceeded": DEADLINE,
}


COMMON = (OK, ERROR, INVALID, INTERRUPTED)
"""Codes that every command may end with; Ctrl-C is enough for the last."""


class CommandError(Exception):
    """A command cannot go on; its message is one line without secrets."""

    def __init__(self, code: int, message: str, pod: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.pod = pod
        """Id or name of the pod concerned, once there may be one."""


def code_of_reason(reason: str) -> int:
    """The exit code of a finished run; a reason not listed is a failure of the job."""
    return _BY_REASON.get(reason, JOB_FAILED)


def exit_code_help(*codes: int) -> str:
    """The meanings of exit codes in one sentence, for a command's help."""
    return "Exit codes: " + "; ".join(f"{code} {CODES[code]}" for code in codes) + "."
