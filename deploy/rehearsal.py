"""The last run of the same spec on this machine: what is deployed should have passed here first."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from job.document import Damaged
from job.history import read_document
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
        """Whether it ended well."""
        return self.exit_code == 0

    def __str__(self) -> str:
        held = sum(passed for _, passed in self.gates)
        gates = f", {held} of {len(self.gates)} gates passed" if self.gates else ""
        return f"run {self.run_id}: {self.reason}{gates}"


def last_rehearsal(store: Store, spec: JobSpec) -> Rehearsal | None:
    """The newest by run id, of all that finished; None where there is none. Raises StoreError."""
    ends = [e.key for e in store.list(f"{spec.name}/") if e.key.endswith("/result.json")]
    for key in sorted(ends, reverse=True):
        with suppress(Damaged, StoreError):
            result = read_document(store, key.removesuffix("/result.json"), "result.json")
            if result is not None and result["spec_hash"] == spec.content_hash():
                gates = [(gate["gate"], bool(gate["passed"])) for gate in result["gates"]]
                return Rehearsal(result["run_id"], result["reason"], result["exit_code"], gates)
    return None
