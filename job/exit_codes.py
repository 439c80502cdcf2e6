"""Exit codes of `python -m job`, of its container, and of `python -m job.export`: one table."""

from __future__ import annotations

PASSED, FAILED, INVALID = 0, 1, 2
GATES_FAILED, FINDINGS = 6, 7
DEVICE_FAILED, INTERRUPTED = 71, 75
ABORTED = 130

MEANINGS = {
    PASSED: "done, and all gates passed",
    FAILED: "failed",
    INVALID: "invalid spec, data or usage",
    GATES_FAILED: "done, and a gate failed",
    FINDINGS: "diagnose has findings",
    DEVICE_FAILED: "the device failed; only under a supervisor, which starts the trainer again",
    INTERRUPTED: "interrupted by a signal; the same --run-id goes on, and the same compare --store "
    "or search",
    ABORTED: "ended by Ctrl-C, with nothing to go on with",
}


def exit_code_help(*codes: int) -> str:
    """The meanings of exit codes in one sentence, for a command's help."""
    return "Exit codes: " + "; ".join(f"{code} {MEANINGS[code]}" for code in codes) + "."
