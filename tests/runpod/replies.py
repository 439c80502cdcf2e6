"""The simulated RunPod's replies: pods, pages and problems, as its contract has them."""

from __future__ import annotations

import http
import json
from typing import Any, NamedTuple

from tests.runpod.faults import Faults
from tests.runpod.log import instant
from tests.runpod.pod import SimulatedPod

ACTIONS = {
    "PROVISIONING": ["stop", "terminate"],
    "STARTING": ["stop", "terminate"],
    "RUNNING": ["stop", "restart", "terminate"],
    "EXITED": ["start", "terminate"],
}
"""What may be asked of a pod, by its status."""
HTML = "<html><head><title>502 Bad Gateway</title></head><body>cloudflare</body></html>\n"
DETAILS = {
    400: "request could not be processed",
    401: "missing bearer token",
    402: "insufficient balance",
    403: "access denied",
    404: "resource not found",
    429: "rate limit exceeded for the minute window",
}


class Reply(NamedTuple):
    """An answer over HTTP."""

    status: int
    body: bytes = b""
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Refused(Exception):
    """A request that is not done."""

    def __init__(self, status: int, detail: str = "", errors: list[str] | None = None) -> None:
        super().__init__(detail)
        self.reply = problem(status, detail, errors)


def problem(
    status: int, detail: str = "", errors: list[str] | None = None, retry_after: int = 1
) -> Reply:
    """An error; that of a gateway is none of the API's own."""
    if status == http.HTTPStatus.BAD_GATEWAY:
        return Reply(status, HTML.encode(), "text/html")
    title = http.HTTPStatus(status).phrase
    body = {"title": title, "status": status, "detail": detail or DETAILS.get(status, title)}
    more = (("Retry-After", str(retry_after)),) if status == 429 else ()
    text = json.dumps(body | ({"errors": errors} if errors else {}))
    return Reply(status, text.encode(), "application/problem+json", more)


def json_reply(status: int, body: dict[str, Any]) -> Reply:
    """An answer in JSON."""
    return Reply(status, json.dumps(body).encode())


def page(name: str, rows: list[dict[str, Any]], query: dict[str, str], faults: Faults) -> Reply:
    """A page of a list, which begins behind the row that the cursor names."""
    keys = [str(row.get("id") or row["name"]) for row in rows]
    start, size = _start(query.get("cursor"), keys), faults.page_size or max(len(rows), 1)
    part, cursor = rows[max(start - faults.page_overlap, 0) : start + size], None
    if "cursor" not in query and faults.empty_first_page:
        part, cursor = [], f"0/{HOSTILE}"
    elif start + size < len(rows):
        cursor = f"{start + size}/{keys[start + size - 1]}{HOSTILE}"
    pagination = {"hasNextPage": cursor is not None, "nextCursor": cursor}
    more = {"zone": "a"} if faults.unknown_fields else {}
    return json_reply(200, {name: part, "pagination": pagination} | more)


HOSTILE = "+/=&?%20 #ü"
"""Ends every cursor: one that is not URL-encoded does not come back unharmed."""


def _start(cursor: str | None, keys: list[str]) -> int:
    """Where the cursor's page begins, also if its row is gone by now."""
    if cursor is None:
        return 0
    position, slash, key = cursor.removesuffix(HOSTILE).partition("/")
    if not slash or not cursor.endswith(HOSTILE) or not position.isdecimal():
        raise Refused(400, f"cursor {cursor!r} is not valid")
    return keys.index(key) + 1 if key in keys else int(position)


def describe(pod: SimulatedPod, status: str) -> dict[str, Any]:
    """A pod as the API shows it; its variables too, secrets included."""
    body, user = pod.body, f"{pod.id}-64410001"
    proxy = {"host": "ssh.runpod.io", "port": 22, "username": user}
    running = status == "RUNNING"
    shown = {
        "id": pod.id,
        "name": pod.name,
        "image": body["image"],
        "args": body.get("args", ""),
        "disk": body.get("disk", 20),
        "ports": body.get("ports", []),
        "env": pod.env,
        "registry": body.get("registry"),
        "status": status,
        "actions": ACTIONS.get(status, []),
        "mounts": body.get("mounts", {}),
        "cloud": pod.cloud,
        "dataCenterId": pod.data_center,
        "cudaVersion": pod.cuda,
        "ssh": {"proxy": proxy | {"command": f"ssh {user}@ssh.runpod.io"}, "direct": None},
        "template": None,
        "cost": pod.cost,
        "locked": False,
        "globalNetworking": {"enabled": False},
        "runtime": {"uptime": int(pod.uptime), "ports": []} if running else None,
        "createdAt": instant(pod.created_at),
        "startedAt": instant(pod.started_at) if pod.started_at else None,
    }
    if pod.gpu:
        return shown | {"gpu": pod.gpu}
    return shown | {"cpu": body["cpu"] | {"memory": 2 * body["cpu"]["vcpuCount"]}}
