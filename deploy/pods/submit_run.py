"""A prepared submission carried out: recorded, rented or adopted, followed."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

from deploy.exits import CANCELLED, OK, CommandError
from deploy.output import log_line
from deploy.plan.prepare import Prepared
from deploy.pods.display import EventDisplay
from deploy.pods.follow import Follower, Outcome, outcome_of
from deploy.pods.provision import Provisioner
from deploy.pods.signs_of_life import SignsOfLife
from deploy.runs.registry import PodRegistry
from job.record.pods import PodsRecord
from job.record.result import Result

OpenDisplay = Callable[[PodRegistry], EventDisplay]


def submit_run(
    prepared: Prepared, interrupted: Event, open_display: OpenDisplay | None
) -> tuple[Outcome, PodsRecord]:
    """Rent a pod, or adopt the run's living one, and follow the run to its end.

    interrupted: set by a signal. open_display: makes what shows the run's events; None: the
    command ends once the job has begun. Raises CommandError, ApiError, StoreError.
    """
    assert prepared.store is not None
    assert prepared.api is not None
    store, api = prepared.store, prepared.api
    plan = prepared.plan.at(api.now())  # RunPod's clock: this machine's may be wrong
    record = PodsRecord(
        name=plan.name,
        run_id=plan.run_id,
        store=prepared.context.store,
        spec_hash=plan.spec_hash,
        spec_file=prepared.spec_file,
        image=plan.image,
        registry=plan.registry,
        deadline=plan.deadline,
    )
    registry = PodRegistry(store, record)
    earlier = registry.read()
    with api:
        life = SignsOfLife(store, record.run, api, log_line)
        if life.is_cancelled():
            why = f"run {record.run_id} was cancelled; a cancelled run stays ended"
            raise CommandError(CANCELLED, why)
        if earlier is None:
            store.put(f"{record.run}/spec.json", prepared.spec.canonical().encode())
        registry.write((earlier or record).model_copy(update={"deadline": plan.deadline}))
        provisioner = Provisioner(api, registry, life, log_line, interrupted)
        adopted = provisioner.adopt(plan)
        if adopted is not None and plan.image != registry.record.image:
            log_line(f"pod {adopted.pod_name} goes on in {registry.record.image}; the image that "
                     "you name is for the next pod")  # fmt: skip
        # The run may have ended since it was planned.
        rented = adopted or life.result() or provisioner.rent(plan)
        if open_display is None:
            if isinstance(rented, Result):
                return outcome_of(rented), registry.record
            return Outcome(OK, "detached"), registry.record
        display = open_display(registry)
        try:
            outcome = Follower(prepared.spec, plan, provisioner, display.add).follow(rented)
        finally:
            display.close()
        return outcome, registry.record
