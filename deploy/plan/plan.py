"""What a submission will do: a pure function of the spec, the image and the catalogue."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from deploy.plan.pod_env import redacted, with_deadline
from deploy.runpod.models import Gpu
from job.errors import Fault, InputError
from job.record.pods import PREFIX
from job.spec import JobSpec, Resources

Catalogue = Mapping[str, Sequence[Gpu]]
"""The catalogue's rows by cloud, for pods with the wanted number of GPUs."""


@dataclass(frozen=True)
class Candidate:
    """A kind of GPU in a pool."""

    gpu: str
    cloud: str
    price: float | None = None
    """USD per hour for the whole pod; None if the catalogue was not asked or does not say."""
    stock: str | None = None
    """NONE, LOW, MEDIUM, HIGH; None if unknown."""
    memory: int | None = None
    """GB, of one GPU."""
    why_not: str | None = None
    """Why it is not tried; None if it is."""


@dataclass(frozen=True)
class Plan:
    """A submission."""

    name: str
    run_id: str
    spec_hash: str
    resources: Resources
    image: str
    """By digest."""
    min_cuda: str
    """Least CUDA version of the host: the spec's or the image's, whichever is higher."""
    variables: Mapping[str, str] = field(repr=False)
    """The container's, without the deadline; some are secrets."""
    registry: str | None
    """Id of the registry's credentials at RunPod."""
    now: datetime
    candidates: tuple[Candidate, ...]
    """In the order in which they are tried; those not tried come last."""

    @property
    def deadline(self) -> datetime:
        """When every pod of this submission ends itself at the latest."""
        return self.now + timedelta(hours=self.resources.max_hours)

    @property
    def worst_case(self) -> float:
        """Most USD: the price ceiling until the deadline."""
        return self.resources.max_price_per_hour * self.resources.max_hours

    def pod_name(self, attempt: int) -> str:
        """A name that no other attempt has."""
        return f"{PREFIX}{self.name}-{self.run_id}-{attempt}"

    def at(self, now: datetime) -> Plan:
        """The same plan, begun at another time."""
        return replace(self, now=now)

    def request(self, candidate: Candidate, attempt: int) -> dict[str, Any]:
        """The body of `POST /v2/pods`: documented fields only, no ports, no mounts."""
        body: dict[str, Any] = {
            "name": self.pod_name(attempt),
            "image": self.image,
            "disk": self.resources.disk_gb,
            "cloud": candidate.cloud,
            "gpu": {
                "id": candidate.gpu,
                "count": self.resources.gpu_count,
                "minCudaVersion": self.min_cuda,
            },
            "env": with_deadline(self.variables, self.deadline),
        }
        return body if self.registry is None else {**body, "registry": self.registry}

    def redacted_request(self, candidate: Candidate, attempt: int) -> dict[str, Any]:
        """The request for printing, with its secrets hidden."""
        body = self.request(candidate, attempt)
        return {**body, "env": redacted(body["env"])}


def plan(
    spec: JobSpec,
    image: str,
    image_cuda: str,
    catalogue: Catalogue | None,
    now: datetime,
    *,
    run_id: str,
    variables: Mapping[str, str],
    registry: str | None = None,
) -> Plan:
    """The plan of a spec. catalogue: None if it was not asked.

    Raises InputError if the spec rents nothing, or names a GPU that the catalogue does not have.
    """
    wanted = spec.resources
    if wanted is None:
        rule, remedy = "a job to rent for needs resources", "add gpu, max_price_per_hour, max_hours"
        raise InputError([Fault("$.resources", "nothing", rule, remedy)])
    if catalogue is not None:
        _check_ids(wanted, catalogue)
    candidates = [
        _candidate(gpu, cloud, wanted, None if catalogue is None else catalogue.get(cloud, ()))
        for gpu in wanted.gpu
        for cloud in wanted.cloud
    ]
    return Plan(
        name=spec.name,
        run_id=run_id,
        spec_hash=spec.content_hash(),
        resources=wanted,
        image=image,
        min_cuda=least_cuda(wanted, image_cuda),
        variables=dict(variables),
        registry=registry,
        now=now.astimezone(UTC),
        candidates=tuple(sorted(dict.fromkeys(candidates), key=_rank)),
    )


def _candidate(gpu: str, cloud: str, wanted: Resources, offers: Sequence[Gpu] | None) -> Candidate:
    if offers is None:
        return Candidate(gpu, cloud)
    row = next((offer for offer in offers if offer.id == gpu), None)
    each = row.price.of(cloud) if row is not None else None
    if row is None or not each:
        return Candidate(gpu, cloud, why_not="not offered in this cloud")
    price, most = each * wanted.gpu_count, row.most.of(cloud)
    why_not = None
    if price > wanted.max_price_per_hour:
        why_not = f"above the ceiling of ${wanted.max_price_per_hour:g}/h"
    elif most is not None and wanted.gpu_count > most:
        why_not = f"at most {most:g} in a pod"
    return Candidate(gpu, cloud, round(price, 4), row.availability, row.memory, why_not)


def _rank(candidate: Candidate) -> int:
    """Sort key; candidates of equal rank keep the spec's order."""
    if candidate.why_not is not None:
        return 2
    return 1 if candidate.stock == "NONE" else 0


def _check_ids(wanted: Resources, catalogue: Catalogue) -> None:
    known = {row.id for rows in catalogue.values() for row in rows}
    faults = []
    for i, gpu in enumerate(wanted.gpu):
        if gpu not in known:
            near = difflib.get_close_matches(gpu, known, 1)
            remedy = (
                f'did you mean "{near[0]}"?' if near else f"choose of {', '.join(sorted(known))}"
            )
            rule = "RunPod's catalogue has no GPU of this id"
            faults.append(Fault(f"$.resources.gpu[{i}]", f'"{gpu}"', rule, remedy))
    if faults:
        raise InputError(faults)


def least_cuda(wanted: Resources, image_cuda: str) -> str:
    """The CUDA version that a host's driver must have: the spec's or the image's, the higher."""
    return max(wanted.min_cuda, image_cuda, key=lambda text: tuple(map(int, text.split("."))))
