"""A stand-in for RunPod's API: answers as told, and remembers what it was asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

HANG = -1
"""Instead of a status: say nothing for longer than anybody waits."""


class Asked(NamedTuple):
    """A request."""

    method: str
    path: str
    authorization: str
    body: str


class Stub:
    """The requests so far; answers in the order given, the last one for ever."""

    def __init__(self, answers: list[int]) -> None:
        self.answers, self.asked = answers, list[Asked]()
        self.port = 0

    def answer(self, asked: Asked) -> int:
        self.asked.append(asked)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def stub_api(answers: list[int], host: str = "127.0.0.1") -> Iterator[Stub]:
    """A server on a free port."""
    stub, over = Stub(answers), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            key = self.headers.get("Authorization", "")
            status = stub.answer(Asked(self.command, self.path, key, body))
            if status == HANG:
                over.wait(120)
                return
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer((host, 0), Handler)
    stub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def wait_for(stub: Stub, count: int, seconds: float) -> list[Asked]:
    """The requests, once there are so many."""
    deadline = time.monotonic() + seconds
    while len(stub.asked) < count:
        assert time.monotonic() < deadline, stub.asked
        time.sleep(0.05)
    return list(stub.asked)
