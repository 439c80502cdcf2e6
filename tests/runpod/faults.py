"""What goes wrong at the simulated RunPod: knobs that a test may turn at any time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

NO_CAPACITY = (
    "There are no longer any instances available with the requested specifications. "
    "Please refresh and try again.",
    "There are no instances available with the request specifications. Please try again later.",
    "There are no longer any instances available with enough disk space.",
    "This machine does not have the resources to deploy your pod. Please try a different machine",
)
"""RunPod's texts if no machine is free."""

Operation = Literal["create", "listing", "get", "delete", "action", "logs", "catalog", "secrets"]
Key = Literal["account", "pod", "none"]


class Fault(NamedTuple):
    """What happens to a request instead of its answer."""

    answer: int | Literal["silence", "late", "cut", "broken"]
    """A status (502 has a body of HTML), no answer, a connection that breaks once no pod costs
    money any more, or at once, or an answer of which half is missing."""
    done: bool = False
    """Whether the request is carried out all the same."""
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
    failing_pull: str | None = None
    """What RunPod's log repeats in place of a pull of the image."""


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
    secrets: Script = field(default_factory=list)

    pods: list[Oddity | None] = field(default_factory=list)
    """For the pods to be made, in their order."""
    capacity: dict[tuple[str, str], int] = field(default_factory=dict)
    """Most pods of a (GPU id, cloud) at the same time; no limit if there is no entry."""
    no_capacity: str = NO_CAPACITY[0]
    """The refusal's text then."""
    rule: str | None = None
    """A rule that every create breaks."""

    listing_lag: float = 0.0
    """How long a new pod is missing in lists."""
    early_404: float = 0.0
    """How long a new pod cannot be read."""
    stale_listing: float = 0.0
    """How long a pod that was deleted is still in lists, as it was."""
    page_size: int | None = None
    """Most rows in a page of a list; None: all rows in one."""
    page_overlap: int = 0
    """Rows that a page repeats from the one before."""
    empty_first_page: bool = False
    """The first page of a list has no rows, and a next page."""

    log_cuts: list[int] = field(default_factory=list)
    """Lines after which each of the next streams breaks off."""
    unknown_fields: bool = False
    """Replies have fields that the contract does not have."""
    status: str | None = None
    """The status that all pods are shown with."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._scripts: dict[Operation, Callable[[], Script]] = {
            "create": lambda: self.create,
            "listing": lambda: self.listing,
            "get": lambda: self.get,
            "delete": lambda: self.delete,
            "action": lambda: self.action,
            "logs": lambda: self.logs,
            "catalog": lambda: self.catalog,
            "secrets": lambda: self.secrets,
        }

    def script(self, operation: Operation) -> Script:
        """The faults to come of an operation."""
        return self._scripts[operation]()

    def take(self, operation: Operation, key: Key) -> Fault | None:
        """What happens to this request; a fault is used up by it."""
        script = self.script(operation)
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
