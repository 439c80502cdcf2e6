"""A web server on the loopback that answers every request as a test wants, for what is no S3."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple


class Reply(NamedTuple):
    """An answer."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = {}


class Stub:
    """A running server."""

    def __init__(self, port: int, scheme: str) -> None:
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.requests: list[str] = []
        """Method and path of each, in order."""


def error_document(code: str, message: str = "") -> str:
    """The body of an error as S3 writes it."""
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>" if code else ""


@contextmanager
def answering(
    reply: Reply | Callable[[str, str], Reply], certificate: Path | None = None
) -> Iterator[Stub]:
    """A server that gives this reply, or what it returns for method and path.

    certificate: a PEM file with key and certificate; the server then speaks TLS.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self) -> None:
            stub.requests.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("content-length", 0)))
            made = reply if isinstance(reply, Reply) else reply(self.command, self.path)
            self.send_response_only(made.status)
            for name, value in made.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(made.body.encode())))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(made.body.encode())

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _reply  # noqa: N815

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Print nothing: a client may close its connection."""

    with Quiet(("127.0.0.1", 0), Handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        stub = Stub(server.server_port, "https" if certificate else "http")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield stub
        finally:
            server.shutdown()
            thread.join()
