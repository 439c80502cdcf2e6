"""The simulated RunPod over HTTP: who asks, what goes wrong on the way, streams of logs."""

from __future__ import annotations

import json
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.runpod.faults import Fault, Key, Operation
from tests.runpod.log import View
from tests.runpod.pod import SimulatedPod
from tests.runpod.replies import Refused, Reply, problem

if TYPE_CHECKING:
    from tests.runpod.simulator import Simulator

ROUTES: tuple[tuple[str, str, Operation], ...] = (
    ("POST", "/v2/pods", "create"),
    ("GET", "/v2/pods", "listing"),
    ("GET", "/v2/pods/([^/]+)", "get"),
    ("DELETE", "/v2/pods/([^/]+)", "delete"),
    ("POST", "/v2/pods/([^/]+)/action", "action"),
    ("GET", "/v2/pods/([^/]+)/logs", "logs"),
    ("GET", "/v2/catalog/gpus", "catalog"),
    ("GET", "/v2/account/secrets", "secrets"),
)
QUOTA = (
    ("RateLimit", '"minute";r=59;t=60'),
    ("RateLimit-Policy", '"minute";q=60;w=60'),
)
STREAM = (
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-cache"),
    ("Connection", "keep-alive"),
    ("X-Accel-Buffering", "no"),
    ("Transfer-Encoding", "chunked"),
)
POLL = 0.02


@dataclass
class Asked:
    """A request, as it came."""

    method: str
    path: str
    body: str
    key: Key
    time: float
    """On the simulator's clock."""
    status: int | None = None
    """What it was answered; None while, or where, it was not."""


class Broken(Exception):
    """The connection is to be broken here."""


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    simulator: Simulator
    closed: threading.Event
    connections: set[socket.socket]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle(self) -> None:
        self.connections.add(self.connection)
        try:
            with suppress(OSError):  # the client has gone
                super().handle()
        finally:
            self.connections.discard(self.connection)

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        owner = self.simulator.owner(bearer)
        account = bearer == self.simulator.key
        key: Key = "account" if account else "pod" if owner is not None else "none"
        now = self.simulator.clock()
        self.asked = Asked(self.command, self.path, body, key, now)
        self.simulator.asked.append(self.asked)
        try:
            self._send(self._reply(body, key, owner))
        except Refused as refused:
            self._send(refused.reply)
        except (Broken, OSError):
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = _answer  # noqa: N815  names that it calls

    def _reply(self, body: str, key: Key, owner: SimulatedPod | None) -> Reply | View:
        agent = self.headers.get("User-Agent", "")
        if not agent or agent.startswith("Python-urllib"):
            raise Refused(403, "error code: 1010")
        if key == "none":
            raise Refused(401)
        operation, pod_id = self._route()
        if owner is not None and not _allowed(owner, operation, pod_id, body):
            raise Refused(403)
        fault = self.simulator.faults.take(operation, key)
        if fault is not None and not fault.done:
            return self._fail(fault, Reply(200))
        reply = self._do(operation, pod_id, body)
        return reply if fault is None or isinstance(reply, View) else self._fail(fault, reply)

    def _route(self) -> tuple[Operation, str]:
        path, methods = urlsplit(self.path).path, set[str]()
        for method, pattern, operation in ROUTES:
            if found := re.fullmatch(pattern, path):
                if method == self.command:
                    return operation, unquote(found[1]) if found.groups() else ""
                methods.add(method)
        raise Refused(405 if methods else 404)

    def _do(self, operation: Operation, pod_id: str, body: str) -> Reply | View:
        query, simulator = dict(parse_qsl(urlsplit(self.path).query)), self.simulator
        deeds: dict[Operation, Callable[[], Reply | View]] = {
            "create": lambda: simulator.create(_parsed(body)),
            "listing": lambda: simulator.listing(query),
            "get": lambda: simulator.get(pod_id),
            "delete": lambda: simulator.delete(pod_id),
            "action": lambda: simulator.action(pod_id, _parsed(body)),
            "logs": lambda: self._view(pod_id, query),
            "catalog": lambda: simulator.gpus(query),
            "secrets": lambda: simulator.secret_names(query),
        }
        return deeds[operation]()

    def _view(self, pod_id: str, query: dict[str, str]) -> View:
        pod = self.simulator.pods.get(pod_id)
        if pod is None or (pod.gone and pod.has_ended):
            raise Refused(404, "pod not found")
        try:
            return View(pod, query, self.headers.get("Last-Event-ID"))
        except ValueError as fault:
            raise Refused(422, "Request validation failed.", [str(fault)]) from fault

    def _fail(self, fault: Fault, reply: Reply) -> Reply:
        """What a fault makes of a reply."""
        if fault.answer == "silence":
            self.closed.wait()
        while fault.answer == "late" and self.simulator.billing() and not self.closed.is_set():
            time.sleep(POLL)
        if fault.answer in ("silence", "late", "cut"):
            raise Broken
        if fault.answer == "broken":
            return reply._replace(body=reply.body[: len(reply.body) // 2] or b'{"id": ')
        assert isinstance(fault.answer, int)
        return problem(fault.answer, fault.text, retry_after=fault.retry_after)

    def _send(self, reply: Reply | View) -> None:
        if isinstance(reply, View):
            return self._stream(reply)
        self._begin(reply.status, reply.headers)
        if reply.status != 204:
            self.send_header("Content-Type", reply.kind)
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)
        return None

    def _begin(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        self.asked.status = status
        self.send_response(status)
        quota = QUOTA if self.asked.key != "none" else ()
        for name, value in (("x-request-id", secrets.token_hex(8)), *quota, *headers):
            self.send_header(name, value)

    def _stream(self, view: View) -> None:
        """A log, line by line, until its pod is gone."""
        self._begin(200, STREAM)
        self.end_headers()
        left, spoke = self.simulator.faults.take_cut(), time.monotonic()
        while not self.closed.is_set():
            over = view.pod.gone and view.pod.has_ended  # before the last look
            for line in view.new():
                if left <= 0:
                    raise Broken
                left -= 1
                self._chunk(line.event())
                spoke = time.monotonic()
            if over:
                return self._chunk(b"")
            if time.monotonic() - spoke > self.simulator.timing.keep_alive:
                self._chunk(b": keep-alive\n\n")
                spoke = time.monotonic()
            time.sleep(POLL)
        raise Broken

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


def _allowed(owner: SimulatedPod, operation: Operation, pod_id: str, body: str) -> bool:
    """Whether a pod's own key may do that: read, stop or delete this pod."""
    if operation == "action":
        return pod_id == owner.id and _parsed(body) == {"action": "stop"}
    return pod_id == owner.id and operation in ("get", "delete")


def _parsed(body: str) -> Any:
    try:
        return json.loads(body)
    except ValueError as fault:
        raise Refused(400, f"the body is not JSON: {fault}") from fault


class Server(ThreadingHTTPServer):
    """Remembers what broke in it."""

    request_queue_size = 128

    def __init__(self, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.broke: list[BaseException | None] = []

    def handle_error(self, *_: object) -> None:
        self.broke.append(sys.exception())


@contextmanager
def served(simulator: Simulator) -> Iterator[str]:
    """A server on a free port for as long as the block lasts; its URL."""

    class Bound(Handler):
        pass

    Bound.simulator, Bound.closed, Bound.connections = simulator, threading.Event(), set()
    server = Server(Bound)
    thread = threading.Thread(target=server.serve_forever, args=(POLL,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v2"
    finally:
        Bound.closed.set()
        server.shutdown()
        server.server_close()
        thread.join()
        for connection in list(Bound.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
    assert not server.broke, server.broke
