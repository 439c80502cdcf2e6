"""What must hold before a container trains anything, found without loading torch."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from job.claim import Refused, finished_code
from job.document import Damaged, Document
from job.faults import InputError
from job.head import HeadDocument
from job.pod import own_pod
from job.read_spec import read_spec
from job.run_id import FORM, RULE
from job.spec import JobSpec
from job.store import Store, StoreError, open_store, patiently

FAILED, INVALID = 1, 2
UNRESOLVED = "{{ RUNPOD_SECRET_"
"""How a value begins that RunPod should have replaced by a secret."""
PATIENCE = 10.0
"""Seconds within which the store must have answered once."""
PATIENCE_IN_POD = 120.0
"""The same in a pod, whose end is not another start."""
BUILD = "/job/build.json"
"""What the image says of itself."""


class NotAdmitted(Exception):
    """Nothing is to be trained; `code` is the container's exit code."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class Admitted(NamedTuple):
    """What the container may train."""

    spec: JobSpec
    store: Store
    boots: int
    """Since the run last had a new checkpoint, this one included."""


def admit(
    environment: Mapping[str, str], path: Path, url: str, run_id: str, counts: bool = True
) -> Admitted:
    """Look at secrets, spec, image and store; raises NotAdmitted.

    counts: whether this is a boot of the run; else it is one of a machine that only trains along.
    """
    if names := unresolved(environment):
        why = f"{', '.join(names)}: RunPod did not fill in the secret; create one of that name"
        raise NotAdmitted(FAILED, why)
    if not FORM.fullmatch(run_id):
        raise NotAdmitted(INVALID, f"RUN_ID: {RULE}; found {run_id!r}")
    try:
        spec = read_spec(path)
        _check_baked(path, environment)
        _check_submitted(spec, environment)
        store, run = open_store(url), f"{spec.name}/{run_id}"
        # The network of a fresh container, or the server beside it, may not be there yet.
        until = time.monotonic() + (PATIENCE if own_pod(environment) is None else PATIENCE_IN_POD)
        code = patiently(lambda: finished_code(store, run, spec), until)
        if code is not None:
            raise NotAdmitted(code, f"run {run_id} has finished; nothing is trained")
        return Admitted(spec, store, count_boot(store, run, own_pod(environment)) if counts else 1)
    except InputError as error:
        raise NotAdmitted(INVALID, "\n".join(map(str, error.faults))) from error
    except (StoreError, Refused) as error:
        raise NotAdmitted(FAILED, str(error)) from error


def unresolved(environment: Mapping[str, str]) -> list[str]:
    """Variables whose secret was not filled in, by name; values are never told."""
    return sorted(name for name, value in environment.items() if value.startswith(UNRESOLVED))


def _check_baked(path: Path, environment: Mapping[str, str]) -> None:
    """Refuse a spec that is not the one that the image was built with."""
    build = Path(environment.get("EVENGRAD_BUILD", BUILD))
    if environment.get("EVENGRAD_ANY_SPEC") == "1" or not build.exists():
        return
    try:
        baked = str(json.loads(build.read_text())["spec_sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"{build} does not say which spec was baked; build the image anew"
        raise NotAdmitted(INVALID, why) from error
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if baked != found:
        raise NotAdmitted(
            INVALID,
            f"{path} has SHA-256 {found[:12]}…, the image was built with {baked[:12]}…; build an "
            "image with this spec, or set EVENGRAD_ANY_SPEC=1",
        )


def _check_submitted(spec: JobSpec, environment: Mapping[str, str]) -> None:
    """Refuse a spec that is not the one that was submitted with this image."""
    baked = {"EVENGRAD_NAME": spec.name, "EVENGRAD_SPEC_HASH": spec.content_hash()}
    for name, found in baked.items():
        if (wanted := environment.get(name)) not in (None, found):
            why = f"{name}: submitted was {wanted}, the image holds {found}; build the image anew"
            raise NotAdmitted(INVALID, why)


def count_boot(store: Store, run: str, pod: str | None = None) -> int:
    """Count this boot in `boots.json`; the count begins anew with every new checkpoint.

    It is a pod's first sign of life, long before a trainer's. Raises StoreError.
    """
    document = Document(store, f"{run}/boots.json", fenced=False)
    step, known = 0, {"step": -1, "boots": 0}
    with suppress(Damaged):
        known = document.read() or known
    with suppress(Damaged):
        head = HeadDocument(store, run, fenced=False).read()
        step = head.checkpoints[0].step if head is not None and head.checkpoints else 0
    boots = int(known["boots"]) + 1 if step <= known["step"] else 1
    document.write({"schema": 1, "step": step, "boots": boots, "pod": pod})
    return boots
