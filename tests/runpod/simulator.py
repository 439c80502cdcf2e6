"""RunPod on this machine: its REST API v2 over pods that run the real supervisor, and bill.

    with simulated(tmp_path) as runpod:
        runpod.images["evengrad:1"] = spec  # the spec baked into an image
        ...  # speak to runpod.url with runpod.key
        assert not runpod.billing()

What RunPod accepts is in `rules`, its replies are in `replies`, what may go wrong is in `faults`,
and a pod's life in `container`. Not known of the real one, and so chosen here: which rules between
fields are a 400, that a stopped pod costs nothing, that the key of a deleted pod is still known,
and that its log can be read until its processes have ended.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.runpod.catalog import Gpu, catalog, check_query, place
from tests.runpod.container import Container, Host, Interval, Timing
from tests.runpod.faults import NO_CAPACITY, Fault, Faults, Oddity
from tests.runpod.http import Asked, served
from tests.runpod.pod import Death, SimulatedPod
from tests.runpod.process import PodFolder, Process, Start, guarded, supervisor
from tests.runpod.replies import ACTIONS, Refused, Reply, describe, json_reply, page
from tests.runpod.rules import Form, broken_rule, violations

__all__ = [
    "NO_CAPACITY", "Asked", "Container", "Fault", "Faults", "Gpu", "Interval", "Oddity",
    "PodFolder", "Process", "SimulatedPod", "Simulator", "Timing", "simulated",
]  # fmt: skip


class Simulator:
    """An account at RunPod; everything but its clock is in real time."""

    def __init__(self, host: Host, prefix: str) -> None:
        self.key = f"rpa_{secrets.token_hex(20)}"
        """The account's."""
        self.faults = Faults()
        self.catalog = catalog()
        self.pods: dict[str, SimulatedPod] = {}
        """All that were ever made."""
        self.asked: list[Asked] = []
        self._host, self._prefix = host, prefix
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._closed = False

    @property
    def url(self) -> str:
        return self._host.url

    @property
    def images(self) -> dict[str, Path]:
        """By image reference: the spec that is baked in."""
        return self._host.images

    @property
    def secrets(self) -> dict[str, str]:
        """What `{{ RUNPOD_SECRET_name }}` stands for, by name."""
        return self._host.secrets

    @property
    def timing(self) -> Timing:
        return self._host.timing

    def clock(self) -> float:
        """Seconds since the beginning, by the clock that bills."""
        return self._host.clock()

    def billing(self) -> list[SimulatedPod]:
        """The pods that cost something now."""
        return [pod for pod in list(self.pods.values()) if pod.bills]

    def kill_host(self, pod_id: str, how: Death) -> None:
        """Have a pod's host die; returns when none of its processes is left.

        how: "vanishes" (404 from now on), "exited" (status EXITED), "silent" (it goes on billing).
        """
        self.pods[pod_id].die(how)

    def close(self) -> None:
        """End everything that runs, at once; no pod is made from now on."""
        with self._lock:
            self._closed = True
        for pod in self.pods.values():
            pod.close()

    # --- what a key may ask -----------------------------------------------------------------------

    def owner(self, key: str) -> SimulatedPod | None:
        """The pod that a key belongs to."""
        return next((pod for pod in list(self.pods.values()) if pod.key == key), None)

    # --- operations -------------------------------------------------------------------------------

    def create(self, body: Any) -> Reply:
        """A new pod, which bills from now on."""
        if errors := sorted(violations(body)):
            raise Refused(422, "Request validation failed.", errors)
        if rule := self.faults.rule or broken_rule(body):
            raise Refused(400, rule)
        if "templateId" in body:
            raise Refused(404, "template not found")
        with self._lock:
            if self._closed:
                raise Refused(503)
            where = place(body, self.catalog, self.faults, self.billing())
            pod_id = f"{self._prefix}{next(self._numbers):04d}"
            oddity = self.faults.take_oddity()
            pod = SimulatedPod(self._host, pod_id, body, where, oddity)
            self.pods[pod_id] = pod
        return self._show(pod, 201)

    def listing(self, query: dict[str, str]) -> Reply:
        """The pods, as far as lists know of them."""
        now, faults = time.monotonic(), self.faults
        known = [
            self._described(pod)
            for pod in list(self.pods.values())
            if now >= pod.made + faults.listing_lag
            and (not pod.gone or now < pod.left + faults.stale_listing)
        ]
        return page("pods", known, query, faults)

    def get(self, pod_id: str) -> Reply:
        """One pod."""
        pod = self.find(pod_id)
        if time.monotonic() < pod.made + self.faults.early_404:
            raise Refused(404, "pod not found")
        return self._show(pod)

    def delete(self, pod_id: str) -> Reply:
        """End a pod for ever."""
        self.find(pod_id).terminate()
        return Reply(204)

    def action(self, pod_id: str, body: Any) -> Reply:
        """Start, stop, restart or terminate a pod."""
        pod = self.find(pod_id)
        form = Form({"action": lambda value: value in (*ACTIONS["RUNNING"], "start")}, ("action",))
        if errors := sorted(violations(body, form)):
            raise Refused(422, "Request validation failed.", errors)
        action: str = body["action"]
        if action not in ACTIONS.get(pod.status, []):
            raise Refused(409, f"{action} is not valid for a pod that is {pod.status}")
        deeds = {
            "start": pod.start,
            "stop": pod.stop,
            "restart": pod.restart,
            "terminate": pod.terminate,
        }
        deeds[action]()
        return Reply(204) if action == "terminate" else self._show(pod)

    def gpus(self, query: dict[str, str]) -> Reply:
        """The catalogue."""
        check_query(query)
        more = {"zone": "a"} if self.faults.unknown_fields else {}
        rows = [gpu.describe(query) | more for gpu in self.catalog]
        return page("gpus", rows, query, self.faults)

    def secret_names(self, query: dict[str, str]) -> Reply:
        """The account's secrets, without their values."""
        rows = [{"id": f"secret-{name}", "name": name} for name in self.secrets]
        return page("secrets", rows, query, self.faults)

    def find(self, pod_id: str) -> SimulatedPod:
        """A pod that is not gone."""
        pod = self.pods.get(pod_id)
        if pod is None or pod.gone:
            raise Refused(404, "pod not found")
        return pod

    def _show(self, pod: SimulatedPod, status: int = 200) -> Reply:
        return json_reply(status, self._described(pod))

    def _described(self, pod: SimulatedPod) -> dict[str, Any]:
        own = pod.status_before if pod.gone else pod.status
        shown = describe(pod, self.faults.status or own)
        return shown | {"zone": {"row": 7}} if self.faults.unknown_fields else shown


@contextmanager
def simulated(
    folder: Path,
    *,
    start: Start = supervisor,
    speed: float = 1.0,
    timing: Timing | None = None,
) -> Iterator[Simulator]:
    """A RunPod of its own, of which no process outlives the block.

    folder: the pods' disks and output. start: what is started in a pod instead of the supervisor;
    called from threads. speed: how much faster than real time it bills.
    """
    prefix = secrets.token_hex(5)
    host = Host(folder, "", start, speed, timing or Timing())
    simulator = Simulator(host, prefix)
    with guarded(prefix):
        try:
            with served(simulator) as host.url:
                yield simulator
        finally:
            simulator.close()
