"""The simulated RunPod's machines: what there is, what it costs, whether one is free."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.runpod.faults import Faults
from tests.runpod.pod import Place, SimulatedPod
from tests.runpod.replies import Refused

DATA_CENTERS = {"US-KS-2": "US Kansas 2", "EU-RO-1": "EU Romania 1"}
CUDA = ("12.4", "12.8", "13.0")
"""Versions that the hosts of all cards have."""
CPU_PRICE = 0.03
"""USD per hour for a virtual core."""


def catalog() -> list[Gpu]:
    """Cards at prices as they were in 2026."""
    return [
        Gpu("NVIDIA RTX A4000", 16, 0.25, 0.17),
        Gpu("NVIDIA L4", 24, 0.39, 0.32),
        Gpu("NVIDIA GeForce RTX 4090", 24, 0.69, 0.34),
        Gpu("NVIDIA A100 80GB PCIe", 80, 1.64, 1.19),
        Gpu("NVIDIA H100 80GB HBM3", 80, 2.99, 2.69),
    ]


@dataclass
class Gpu:
    """A row of the catalogue; a price of None: not in that cloud."""

    id: str
    memory: int
    secure: float | None
    community: float | None
    availability: str = "HIGH"
    max_count: int = 8

    def price(self, cloud: str) -> float | None:
        """USD per hour for one."""
        return self.secure if cloud == "SECURE" else self.community

    def describe(self, query: dict[str, str]) -> dict[str, Any]:
        """As the catalogue shows it."""
        shown = {
            "id": self.id,
            "name": self.id.removeprefix("NVIDIA ").removeprefix("GeForce "),
            "pool": None,
            "manufacturer": "NVIDIA",
            "memory": self.memory,
            "secure": self.secure is not None,
            "community": self.community is not None,
            "price": {"secure": self.secure or 0.0, "community": self.community or 0.0},
            "maxCount": {"secure": self.max_count, "community": self.max_count},
        }
        return shown | self._stock(query) if "include" in query else shown

    def serves(self, wanted: dict[str, Any], cloud: str, count: int) -> bool:
        """Whether there are machines that could."""
        offered = self.price(cloud) is not None and count <= self.max_count
        return offered and bool(cuda_of(wanted))

    def _stock(self, query: dict[str, str]) -> dict[str, Any]:
        fits = self.serves(query, query.get("cloud", "SECURE"), int(query.get("count", "1")))
        if not fits or self.availability == "NONE":
            return {"availability": "NONE"}
        centers = [
            {"id": center, "name": name, "availability": self.availability}
            for center, name in DATA_CENTERS.items()
        ]
        versions = [{"version": version, "available": True} for version in cuda_of(query)]
        return {
            "availability": self.availability,
            "dataCenters": centers,
            "cudaVersions": versions,
        }


def check_query(query: Mapping[str, str]) -> None:
    """Refuse what the catalogue cannot be asked."""
    forms = {
        "include": "AVAILABILITY",
        "product": "POD|CLUSTER|SERVERLESS",
        "count": "[1-9][0-9]*",
        "cloud": "SECURE|COMMUNITY",
        "minCudaVersion": r"[0-9]+\.[0-9]+",
    }
    wrong = [name for name in forms.keys() & query if not re.fullmatch(forms[name], query[name])]
    if wrong:
        raise Refused(
            422, "Request validation failed.", [f"{name}: is not valid" for name in wrong]
        )
    if ("include" in query) != ("product" in query):
        raise Refused(400, "include=AVAILABILITY and product belong together")
    if "include" not in query and query.keys() & {"count", "cloud"}:
        raise Refused(400, "count and cloud are valid only with include=AVAILABILITY")


def cuda_of(wanted: dict[str, Any]) -> list[str]:
    """The hosts' versions that are not too low."""

    def order(version: str) -> tuple[int, ...]:
        return tuple(map(int, version.split(".")))

    least = order(wanted.get("minCudaVersion", "0.0"))
    allowed = wanted.get("allowedCudaVersions") or CUDA
    return [version for version in CUDA if order(version) >= least and version in allowed]


def place(
    body: dict[str, Any], rows: Iterable[Gpu], faults: Faults, billing: Iterable[SimulatedPod]
) -> Place:
    """Where a pod that is asked for may run; raises Refused."""
    wanted = body.get("dataCenterIds") or list(DATA_CENTERS)
    centers = [center for center in DATA_CENTERS if center in wanted]
    if "cpu" in body:
        return Place(CPU_PRICE * body["cpu"]["vcpuCount"], (centers or list(DATA_CENTERS))[0])
    gpu, cloud = body["gpu"], body.get("cloud", "SECURE")
    row = next((row for row in rows if row.id == gpu["id"]), None)
    if row is None:
        raise Refused(400, f"GPU type {gpu['id']} not found")
    price, count = row.price(cloud), gpu.get("count", 1)
    free = centers and row.serves(gpu, cloud, count) and _is_free(row, cloud, faults, billing)
    if price is None or not free:
        raise Refused(400, faults.no_capacity)
    return Place(price * count, centers[0], cuda_of(gpu)[-1])


def _is_free(row: Gpu, cloud: str, faults: Faults, billing: Iterable[SimulatedPod]) -> bool:
    most = faults.capacity.get((row.id, cloud), 0 if row.availability == "NONE" else math.inf)
    used = [(pod.body.get("gpu", {}).get("id"), pod.cloud) for pod in billing]
    return used.count((row.id, cloud)) < most
