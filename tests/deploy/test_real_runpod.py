"""One pod at the real RunPod, for some cents: opt-in, and cleaned up whatever happens.

    EVENGRAD_LIVE=1 EVENGRAD_LIVE_IMAGE=docker.io/me/evengrad@sha256:… EVENGRAD_STORE=s3://…
    EVENGRAD_LIVE_ENV=pod.env pytest tests/deploy/test_real_runpod.py

needs a key (RUNPOD_API_KEY or `runpod config`), an image of the target `cpu` with docker/smoke.json
baked (`make image TARGET=cpu`, pushed), and the store's credentials, here in AWS_* and for the
container in an env file. It rents one CPU pod at no more than CEILING for at most MINUTES;
EVENGRAD_LIVE_CPU names another flavour.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.plan.image import check_pinned
from deploy.plan.pod_env import pod_environment, with_deadline
from deploy.runpod.client import RunPod
from deploy.runpod.credentials import account_key
from deploy.runpod.errors import NotThere
from deploy.runpod.terminate import end_pod
from job.record.history import read_document
from job.record.layout import new_run_id
from job.record.pods import PREFIX
from job.spec.read import read_spec
from job.store import Unavailable, open_store
from tests.support.command import ROOT

CEILING, MINUTES = 0.20, 5.0
"""USD per hour, and how long the pod may live."""
CPU = {"id": os.environ.get("EVENGRAD_LIVE_CPU", "cpu3c"), "vcpuCount": 2}

live = pytest.mark.skipif(
    os.environ.get("EVENGRAD_LIVE") != "1", reason="rents a pod: set EVENGRAD_LIVE=1"
)


@live
def test_a_real_pod_trains_and_ends_itself() -> None:
    """Created, trained, stored, gone: the pod deletes itself, and nothing is left of it."""
    spec = read_spec(ROOT / "docker" / "smoke.json")
    store, run_id = os.environ["EVENGRAD_STORE"], new_run_id()
    file = Path(os.environ["EVENGRAD_LIVE_ENV"])
    variables = pod_environment(spec, store, run_id, os.environ, file)
    end = datetime.now(UTC) + timedelta(minutes=MINUTES)
    name = f"{PREFIX}{spec.name}-{run_id}-1"
    body = {
        "name": name,
        "image": check_pinned(os.environ["EVENGRAD_LIVE_IMAGE"]),
        "disk": 10,
        "cloud": "SECURE",
        "cpu": CPU,
        "env": with_deadline(variables, end),
    }
    with RunPod(account_key(None, os.environ)) as api:
        try:
            pod = api.create(body)
            assert pod.cost is not None
            assert pod.cost <= CEILING
            result = None
            while result is None and datetime.now(UTC) < end:
                time.sleep(5.0)
                with suppress(Unavailable):
                    result = read_document(
                        open_store(store), f"{spec.name}/{run_id}", "result.json"
                    )
            assert result is not None, "no result within the deadline"
            assert result["reason"] == "succeeded"
            time.sleep(30.0)
            with pytest.raises(NotThere):  # it has ended itself
                api.pod(pod.id)
        finally:
            for left in api.pods():
                if left.name == name:
                    end_pod(api, left.id, left.name)
