"""What goes wrong at the simulated RunPod: knobs that a test turns at any time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

NO_CAPACITY = (
    "There are no longer any instances available with the requested specifications. "
    "Please refresh and try again.",
    "There are no instances available with the request specifications. Please try again later.",
    "There are no longer any instances available with enough disk space.",
    "This machine does not have the resources to deploy your pod. Please try a different machine",
)
"""What RunPod has said for want of a free machine."""

Operation = Literal["create", "listing", "get", "delete", "action", "logs", "catalog"]
Key = Literal["account", "pod", "none"]


class Fault(NamedTuple):
    """What happens to a request instead of its answer."""

    answer: int | Literal["silence", "cut", "broken"]
    """A status (502 has a body of HTML), no answer, a broken connection, or an answer of which
    half is missing."""
    done: bool = False
    """Whether what was asked is done all the same."""
    times: float = 1
    """For so many requests."""
    key: Key | None = None
    """Only for requests with such a key."""
    text: str = ""
    """`detail` of the answer."""
    retry_after: int = 1
    """Of a 429."""


@dataclass(frozen=True)
class Oddity:
    """How a pod differs from what was asked for."""

    gpu: str | None = None
    count: int | None = None
    price: float | None = None
    """USD per hour, of the pod."""
    stuck: Literal["PROVISIONING", "STARTING", "RUNNING"] | None = None
    """The status in which it stays without ever running anything."""


Script = list[Fault | None]
"""For the requests to come, in their order; None lets one pass."""


@dataclass
class Faults:
    """Everything that can go wrong; times are real seconds. Nothing does by default."""

    create: Script = field(default_factory=list)
    listing: Script = field(default_factory=list)
    get: Script = field(default_factory=list)
    delete: Script = field(default_factory=list)
    action: Script = field(default_factory=list)
    logs: Script = field(default_factory=list)
    catalog: Script = field(default_factory=list)

    pods: list[Oddity | None] = field(default_factory=list)
    """For the pods to be made, in their order."""
    capacity: dict[tuple[str, str], int] = field(default_factory=dict)
    """Pods that may have a (GPU id, cloud) at the same time; no limit where none is told."""
    no_capacity: str = NO_CAPACITY[0]
    """What is said then."""
    rule: str | None = None
    """A rule that every create breaks."""

    listing_lag: float = 0.0
    """How long a new pod is missing in lists."""
    early_404: float = 0.0
    """How long a new pod cannot be read."""
    stale_listing: float = 0.0
    """How long a pod that was deleted is still in lists, as it was."""
    page_size: int | None = None
    """Lists have pages with a `nextCursor`."""
    page_overlap: int = 0
    """Pods that a page repeats from the one before."""

    log_cuts: list[int] = field(default_factory=list)
    """Lines after which each of the next streams breaks off."""
    unknown_fields: bool = False
    """Replies say more than the contract knows."""
    status: str | None = None
    """What all pods' status is said to be."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def take(self, operation: Operation, key: Key) -> Fault | None:
        """What happens to this request, which it uses up."""
        script: Script = getattr(self, operation)
        with self._lock:
            if not script:
                return None
            fault = script[0]
            if fault is None:
                return script.pop(0)
            if fault.key not in (None, key):
                return None
            script[0] = fault._replace(times=fault.times - 1)
            if fault.times <= 1:
                script.pop(0)
            return fault

    def take_oddity(self) -> Oddity:
        """How the next pod is odd."""
        with self._lock:
            return (self.pods.pop(0) if self.pods else None) or Oddity()

    def take_cut(self) -> float:
        """Lines after which the next stream of logs breaks off."""
        with self._lock:
            return self.log_cuts.pop(0) if self.log_cuts else float("inf")
