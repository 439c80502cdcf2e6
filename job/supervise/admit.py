"""What must hold before a container trains anything; checked without loading torch."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from job.env import own_pod
from job.errors import InputError
from job.exit_codes import FAILED, INVALID
from job.record.claim import Refused, finished_code
from job.record.document import Damaged, Document
from job.record.layout import FORM, RULE
from job.record.run_index import RunIndexStore
from job.record.status import Boots
from job.spec import JobSpec
from job.spec.read import read_spec
from job.store import Store, StoreError, open_store, retry_until

UNRESOLVED = "{{ RUNPOD_SECRET_"
"""Start of a value that RunPod should have replaced by a secret."""
PATIENCE = 10.0
"""Seconds within which the store must answer once."""
PATIENCE_IN_POD = 120.0
"""The same in a pod, which is not simply started again."""
BUILD = "/job/build.json"
"""Describes the image (job.bake)."""


class NotAdmitted(Exception):
    """Nothing is trained; `code` is the container's exit code."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class Admitted(NamedTuple):
    """What the container may train."""

    spec: JobSpec
    store: Store
    boots: int
    """Boots of this pod since the run's last new checkpoint, this one included."""


def admit(
    environment: Mapping[str, str], path: Path, url: str, run_id: str, counts: bool = True
) -> Admitted:
    """Check secrets, spec, image and store; raises NotAdmitted.

    counts: False on a machine that only trains along, whose boots are not counted.
    """
    if names := unfilled_secrets(environment):
        why = f"{', '.join(names)}: RunPod did not fill in the secret; create one of that name"
        raise NotAdmitted(FAILED, why)
    if not FORM.fullmatch(run_id):
        raise NotAdmitted(INVALID, f"RUN_ID: {RULE}; found {run_id!r}")
    try:
        spec = read_spec(path)
        _check_baked(path, environment)
        _check_submitted(spec, environment)
        store, run = open_store(url, spec.checkpoint.encryption), f"{spec.name}/{run_id}"
        # The network of a fresh container, or the server beside it, may not be there yet.
        until = time.monotonic() + (PATIENCE if own_pod(environment) is None else PATIENCE_IN_POD)
        code = retry_until(lambda: finished_code(store, run, spec), until)
        if code is not None:
            raise NotAdmitted(code, f"run {run_id} has finished; nothing is trained")
        return Admitted(spec, store, count_boot(store, run, own_pod(environment)) if counts else 1)
    except InputError as error:
        raise NotAdmitted(INVALID, " | ".join(map(str, error.faults))) from error
    except (StoreError, Refused) as error:
        raise NotAdmitted(FAILED, str(error)) from error


def unfilled_secrets(environment: Mapping[str, str]) -> list[str]:
    """Names of the variables whose secret RunPod did not fill in."""
    return sorted(name for name, value in environment.items() if value.startswith(UNRESOLVED))


def _check_baked(path: Path, environment: Mapping[str, str]) -> None:
    """Refuse any spec but the one that the image was built with."""
    build = Path(environment.get("EVENGRAD_BUILD", BUILD))
    if environment.get("EVENGRAD_ANY_SPEC") == "1" or not build.exists():
        return
    try:
        baked = str(json.loads(build.read_text())["spec_sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"{build} does not say which spec was baked; build the image anew"
        raise NotAdmitted(INVALID, why) from error
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if baked != actual:
        raise NotAdmitted(
            INVALID,
            f"{path} has SHA-256 {actual[:12]}…, the image was built with {baked[:12]}…; build an "
            "image with this spec, or set EVENGRAD_ANY_SPEC=1",
        )


def _check_submitted(spec: JobSpec, environment: Mapping[str, str]) -> None:
    """Refuse any spec but the one that was submitted with this image."""
    baked = {"EVENGRAD_NAME": spec.name, "EVENGRAD_SPEC_HASH": spec.content_hash()}
    for name, actual in baked.items():
        if (submitted := environment.get(name)) not in (None, actual):
            why = f"{name}: submitted was {submitted}, the image holds {actual}; build it anew"
            raise NotAdmitted(INVALID, why)


def count_boot(store: Store, run: str, pod: str | None = None) -> int:
    """Count this boot in `boots.json`; returns how often this pod has booted without progress.

    The count begins anew with every new checkpoint, and in every other pod: a host may die without
    any fault of the run. It is a pod's first proof of life, long before the trainer's. Raises
    StoreError.
    """
    document = Document(store, Boots.key(run), fenced=False)
    step, before = 0, Boots(boots=0)
    with suppress(Damaged):
        before = Boots.of(document) or before
    with suppress(Damaged):
        index = RunIndexStore(store, run, fenced=False).read()
        step = index.checkpoints[0].step if index is not None and index.checkpoints else 0
    counted = before.boots if step <= before.step and before.pod == pod else 0
    boots = Boots(step=step, boots=1 + counted, pod=pod)
    document.write(boots.body())
    return boots.boots
