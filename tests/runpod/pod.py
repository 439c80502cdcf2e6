"""A simulated pod: what was asked for, where it is in its life, what it costs."""

from __future__ import annotations

import secrets
import threading
import time
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from tests.runpod.container import Container, Host, Interval
from tests.runpod.faults import Oddity
from tests.runpod.log import Log

Death = Literal["vanishes", "exited", "silent"]


class Place(NamedTuple):
    """A machine on which a pod may run."""

    price: float
    """USD per hour, of the whole pod."""
    data_center: str
    cuda: str | None = None


class SimulatedPod:
    """A pod from its creation on; it is kept when it is gone."""

    def __init__(
        self, host: Host, pod_id: str, body: dict[str, Any], place: Place, oddity: Oddity
    ) -> None:
        self.id, self.body = pod_id, body
        self.data_center, self.cuda = place.data_center, place.cuda
        self.name: str = body["name"]
        self.env: dict[str, str] = body.get("env", {})
        """As it was asked for."""
        self.key = f"rpa_pod_{secrets.token_hex(16)}"
        self.gpu: dict[str, Any] | None = None
        if "gpu" in body:
            count = body["gpu"].get("count", 1) if oddity.count is None else oddity.count
            self.gpu = {"id": oddity.gpu or body["gpu"]["id"], "count": count}
        self.price = place.price if oddity.price is None else oddity.price
        """USD per hour while it bills."""
        self.stuck = oddity.stuck
        self.failing_pull = oddity.failing_pull
        """What its log repeats in place of a pull."""
        self.cloud: str = body.get("cloud", "SECURE")
        self.status = self.status_before = "PROVISIONING"
        self.gone = False
        self.created_at = datetime.now(UTC)
        self.started_at: datetime | None = None
        self.made, self.left = time.monotonic(), 0.0
        """When it came and went, in real time."""
        self.log = Log()
        self.containers: list[Interval] = []
        """Of its boots: when their PID 1 lived."""
        self.lives: list[Interval] = []
        """When its trainers lived, which are what PID 1 starts."""
        self._host = host
        self._lock = threading.RLock()
        self._billed, self._billing_since = 0.0, host.clock()
        self.bills = True
        self._closed = False
        self._container = Container(host, self, None)
        self._container.start()

    # --- what it costs ----------------------------------------------------------------------------

    @property
    def cost(self) -> float:
        """USD per hour, now."""
        return self.price if self.bills else 0.0

    @property
    def billed_seconds(self) -> float:
        """On the simulator's clock: from its creation, without the time that it was stopped."""
        with self._lock:
            now = self._host.clock() - self._billing_since if self.bills else 0.0
            return self._billed + now

    @property
    def billed_usd(self) -> float:
        return self.billed_seconds * self.price / 3600

    def _bill(self, on: bool) -> None:
        self._billed = self.billed_seconds
        self._billing_since, self.bills = self._host.clock(), on

    # --- what happens to it -----------------------------------------------------------------------

    @property
    def boots(self) -> int:
        """How often its process was started."""
        return len(self.containers)

    @property
    def pid(self) -> int | None:
        """Process id of its PID 1 on this machine, if it runs."""
        process = self._container.process
        return process.pid if process is not None else None

    @property
    def has_ended(self) -> bool:
        """True if no process of it runs, nor will one without a new start."""
        return not self._container.is_alive()

    @property
    def will_run(self) -> bool:
        """True if a process of it runs, or will soon."""
        return not self.gone and self.stuck is None and self._container.goes_on

    @property
    def uptime(self) -> float:
        """Seconds since it was RUNNING, on the simulator's clock."""
        since = self.started_at or datetime.now(UTC)
        return (datetime.now(UTC) - since).total_seconds() * self._host.speed

    def become(self, status: str, unless: threading.Event) -> None:
        """Its container has come so far, if it is not to end."""
        with self._lock:
            if not unless.is_set():
                self.status = status
                if status == "RUNNING":
                    self.started_at = datetime.now(UTC)

    def start(self) -> None:
        """Boot a stopped pod."""
        with self._lock:
            if self._closed:
                return
            self.status = "PROVISIONING"
            self._bill(on=True)
            self._container = Container(self._host, self, self._container)
            self._container.start()

    def stop(self) -> None:
        """Release its GPU; the processes have their grace."""
        self._end("EXITED")

    def restart(self) -> None:
        """Start its container again, in place."""
        self._container.restart()

    def terminate(self) -> None:
        """Delete it; the processes have their grace."""
        self._end("TERMINATED")

    def die(self, how: Death) -> None:
        """Its host dies; returns when nothing runs any more."""
        if how == "silent":
            self._container.end(grace=0)
        else:
            self._end("TERMINATED" if how == "vanishes" else "EXITED", grace=0)
        self._container.join()

    def close(self) -> None:
        """End its processes at once, whatever is going on."""
        with self._lock:
            self._closed = True
        self._container.end(grace=0)
        self._container.join()

    def _end(self, status: str, grace: float | None = None) -> None:
        with self._lock:
            if self.gone:
                return
            self._bill(on=False)
            self.status_before, self.status = self.status, status
            if status == "TERMINATED":
                self.gone, self.left = True, time.monotonic()
            self._container.end(grace)
