"""A proxy in front of the S3 server that fails the requests that a test chooses."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, NamedTuple

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.support.s3_server import ACCESS_KEY, SECRET_KEY, Server

PIECE = 16 << 10
CONDITIONS = ("if-match", "if-none-match")


class Request(NamedTuple):
    """A request of a client."""

    method: str
    path: str
    headers: Mapping[str, str]
    """By name in lower case."""

    @property
    def writes(self) -> bool:
        """True if it changes an object."""
        return self.method in ("PUT", "POST", "DELETE")

    @property
    def access_key(self) -> str:
        """The key that it is signed with."""
        return self.headers.get("authorization", "").partition("Credential=")[2].partition("/")[0]

    @property
    def has_checksum(self) -> bool:
        """True if a checksum is sent with it."""
        return "x-amz-sdk-checksum-algorithm" in self.headers


class Answer(NamedTuple):
    """An error that the proxy answers in the server's place."""

    status: int
    code: str
    message: str = ""


Fault = Literal[
    "hang",  # no answer, until the proxy is released or closes
    "cut",  # the connection breaks in the middle of the request's body, or else of the answer's
    "lose",  # the request is carried out and its answer lost
    "slow",  # 1 MB/s, of all connections together
    "500",
    "503",
    "403",
    "held",  # carried out once the proxy is released
    "unconditional",  # If-Match and If-None-Match do not reach the server
]
ERRORS = {
    "500": Answer(500, "InternalError"),
    "503": Answer(503, "SlowDown"),
    "403": Answer(403, "AccessDenied"),
}
Rule = Callable[[Request], Fault | Answer | None]
Moment = Literal["begins", "half", "ends"]


class Proxy:
    """Listens on a port of its own; `rule` may be changed at any time."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.rule: Rule = lambda _: None
        self.watch: Callable[[Request, Moment], None] = lambda *_: None
        """Called for every request that is carried out: as it begins, at half its body, and when
        the server has done it and the client does not know yet."""
        self.released = threading.Event()
        self.bandwidth = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._listener = self._listen(0)
        self.environment = server.environment(self._listener.server_port)

    def refuse(self) -> None:
        """Break all connections and refuse new ones."""
        self._listener.shutdown()
        self._listener.server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def accept(self) -> None:
        """Accept connections again."""
        self._listener = self._listen(self._listener.server_port)

    def release(self) -> None:
        """Let go of the requests that are held, and hold no more."""
        self.released.set()

    def close(self) -> None:
        """Stop the proxy."""
        self.release()
        self.refuse()

    def _listen(self, port: int) -> ThreadingHTTPServer:
        proxy = self

        class Bound(Relay):
            pass

        Bound.proxy, Bound.connections = proxy, self._connections
        listener = ThreadingHTTPServer(("127.0.0.1", port), Bound)
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        return listener


@contextmanager
def proxied(server: Server) -> Iterator[Proxy]:
    """A proxy for as long as the context lasts."""
    proxy = Proxy(server)
    try:
        yield proxy
    finally:
        proxy.close()


class Broken(Exception):
    """The connection is to be broken here."""


class Relay(BaseHTTPRequestHandler):
    """One connection of a client."""

    proxy: Proxy
    connections: set[socket.socket]
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        self.connections.add(self.connection)
        try:
            with suppress(OSError, http.client.HTTPException):
                super().handle()
        finally:
            self.connections.discard(self.connection)

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _relay(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers)
        fault = self.proxy.rule(request)
        try:
            self._do(request, fault)
        except (Broken, OSError, http.client.HTTPException):
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _relay  # noqa: N815  names that it calls

    def _do(self, request: Request, fault: Fault | Answer | None) -> None:
        if fault in ("hang", "held"):
            self.proxy.released.wait()
            if fault == "hang":
                raise Broken
        size = int(self.headers.get("content-length", 0))
        answer = ERRORS.get(fault) if isinstance(fault, str) else fault
        if answer is not None:
            self._read(size, slow=False)
            return self._refuse(answer)
        assert not isinstance(fault, Answer)
        return self._carry_out(request, size, fault)

    def _carry_out(self, request: Request, size: int, fault: Fault | None) -> None:
        cut = fault == "cut" and size > 0
        self.proxy.watch(request, "begins")
        body = self._read(size // 2, fault == "slow")
        upstream = self._upstream(fault, size, body)
        self.proxy.watch(request, "half")
        if cut:
            upstream.close()
            raise Broken
        rest = self._read(size - len(body), fault == "slow")
        if fault == "unconditional":
            self._send_resigned(upstream, body + rest)
        else:
            upstream.send(rest)
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        self.proxy.watch(request, "ends")
        if fault == "lose":
            raise Broken
        self._answer(answer, content, fault)

    def _upstream(self, fault: Fault | None, size: int, body: bytes) -> http.client.HTTPConnection:
        """A connection to the server, with the headers and the first part of the body sent."""
        upstream = http.client.HTTPConnection("127.0.0.1", self.proxy.server.port, timeout=60)
        if fault != "unconditional":
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    upstream.putheader(name, value)
            upstream.endheaders(body)
        return upstream

    def _send_resigned(self, upstream: http.client.HTTPConnection, body: bytes) -> None:
        """Send the whole request without its conditions, signed again."""
        kept = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in (*CONDITIONS, "expect", "authorization", "content-length")
        }
        url = f"http://{self.headers['host']}{self.path}"
        again = AWSRequest(self.command, url, headers=kept, data=body)
        S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(again)
        upstream.request(self.command, self.path, body, dict(again.headers.items()))

    def _read(self, size: int, slow: bool) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.rfile.read(min(PIECE, size - len(data)))
            if not piece:
                raise Broken
            data += piece
            self._wait(piece, slow)
        return bytes(data)

    def _wait(self, piece: bytes, slow: bool) -> None:
        if slow:
            with self.proxy.bandwidth:
                time.sleep(len(piece) / 1e6)

    def _refuse(self, answer: Answer) -> None:
        message = f"<Message>{answer.message}</Message>" if answer.message else ""
        text = f"<Error><Code>{answer.code}</Code>{message}</Error>".encode()
        self.send_response_only(answer.status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else text)
        self.wfile.flush()

    def _answer(
        self, answer: http.client.HTTPResponse, content: bytes, fault: Fault | None
    ) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        passed = content[: len(content) // 2] if fault == "cut" else content
        for first in range(0, len(passed), PIECE):
            piece = passed[first : first + PIECE]
            self._wait(piece, fault == "slow")
            self.wfile.write(piece)
        self.wfile.flush()
        if fault == "cut":
            raise Broken
