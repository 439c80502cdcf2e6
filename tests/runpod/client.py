"""Asking the simulated RunPod, as plainly as can be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.runpod.pod import SimulatedPod
from tests.runpod.process import Local, PodFolder, Process, Start
from tests.runpod.simulator import Simulator

GPU = "NVIDIA L4"
IMAGE = "evengrad:1"


@contextmanager
def asking(simulator: Simulator, key: str | None = None) -> Iterator[httpx.Client]:
    """A client with the account's key, or another."""
    headers = {"Authorization": f"Bearer {key or simulator.key}", "User-Agent": "evengrad"}
    with httpx.Client(base_url=simulator.url, headers=headers, timeout=600) as client:
        yield client


def body(name: str | None = "a", **more: Any) -> dict[str, Any]:
    """What a pod is asked for with; None leaves a field out."""
    asked = {"name": name, "image": IMAGE, "gpu": {"id": GPU, "count": 1}} | more
    return {field: value for field, value in asked.items() if value is not None}


def made(simulator: Simulator, client: httpx.Client, name: str = "a", **more: Any) -> SimulatedPod:
    """A new pod."""
    answer = client.post("pods", json=body(name, **more))
    assert answer.status_code == 201, answer.text
    return simulator.pods[answer.json()["id"]]


def names(client: httpx.Client) -> list[str]:
    """The names of the pods on the first page of the list."""
    return [pod["name"] for pod in client.get("pods").json()["pods"]]


def shell(script: str) -> Start:
    """Starts a shell script in the supervisor's place."""

    def start(folder: PodFolder, environment: dict[str, str]) -> Process:
        return Local(["sh", "-c", script], folder, environment)

    return start
