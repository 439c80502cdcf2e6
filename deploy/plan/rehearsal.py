"""The last run of the same spec on this machine: a spec should pass here before it is deployed."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from job.record.result import Result
from job.spec import JobSpec
from job.store import Store, StoreError


class Rehearsal(NamedTuple):
    """A finished run of the same content."""

    run_id: str
    reason: str
    exit_code: int
    gates: list[tuple[str, bool]]

    @property
    def passed(self) -> bool:
        """True if it ended with exit code 0."""
        return self.exit_code == 0

    def __str__(self) -> str:
        held = sum(passed for _, passed in self.gates)
        gates = f", {held} of {len(self.gates)} gates passed" if self.gates else ""
        return f"run {self.run_id}: {self.reason}{gates}"


def last_rehearsal(store: Store, spec: JobSpec) -> Rehearsal | None:
    """The finished run with the newest run id; None if there is none. Raises StoreError."""
    ends = [e.key for e in store.list(f"{spec.name}/") if e.key.endswith(f"/{Result.FILE}")]
    for key in sorted(ends, reverse=True):
        with suppress(StoreError):
            result = Result.read_or_none(store, key.removesuffix(f"/{Result.FILE}"))
            if result is not None and result.spec_hash == spec.content_hash():
                gates = [(gate.gate, gate.passed) for gate in result.gates]
                return Rehearsal(result.run_id, result.reason, result.exit_code, gates)
    return None
