"""Connections to a real S3 server that break, lose answers, alter bytes or stay silent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from job.store import Conflict, Corrupt, Missing, Store, StoreError, Unavailable, open_store
from tests.support.s3_server import Server
from tests.support.stores import noise

Spoil = Callable[[bytes], bytes | None]


class Proxy:
    """Passes bytes between boto3 and the server; the server's answers go through `spoil`.

    `spoil` returns what a piece is replaced by, or None to cut the connection there.
    """

    def __init__(self, server: Server, spoil: Spoil) -> None:
        self.server, self.spoil = server, spoil
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.environment = server.environment(self.listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):  # closed at the end of the test
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.server.port))
                for ends in ((client, server, bytes), (server, client, self.spoil)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, through: Spoil) -> None:
        with suppress(OSError):
            while (data := source.recv(65536)) and (passed := through(data)) is not None:
                sink.sendall(passed)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


Through = Callable[[Spoil], Store]


@pytest.fixture
def through(s3_server: Server, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Through]:
    """A function that opens the store of this test behind a proxy with this `spoil`."""
    proxies = []

    def open_through(spoil: Spoil) -> Store:
        proxies.append(Proxy(s3_server, spoil))
        for name, value in proxies[-1].environment.items():
            monkeypatch.setenv(name, value)
        return open_store(s3_url)

    yield open_through
    for proxy in proxies:
        proxy.listener.close()


@pytest.mark.parametrize("first", [None, b"old"])
def test_lost_answer(through: Through, s3_url: str, first: bytes | None) -> None:
    """A conditional write succeeds if only its answer is lost and boto3's second try is refused."""
    lost: list[bytes] = []

    def spoil(data: bytes) -> bytes | None:
        if lost or b"HTTP/1.1 200" not in data:
            return data
        lost.append(data)
        return None

    direct = open_store(s3_url)
    old = direct.put("a", first) if first is not None else None
    store = through(spoil)
    etag = store.put_if_match("a", b"mine", old) if old else store.put_if_absent("a", b"mine")
    assert lost
    assert direct.get("a") == (b"mine", etag)


def test_busy_object(through: Through, s3_url: str) -> None:
    """A conditional write answered with 409, as AWS does if two meet, is tried again."""
    busy: list[bytes] = []

    def spoil(data: bytes) -> bytes:
        if busy or b"HTTP/1.1 200 OK" not in data:
            return data
        busy.append(data)
        return data.replace(b"HTTP/1.1 200 OK", b"HTTP/1.1 409 Conflict")

    etag = through(spoil).put_if_absent("a", b"mine")
    assert busy
    assert open_store(s3_url).get("a") == (b"mine", etag)


def test_broken_read_goes_on(through: Through, s3_url: str) -> None:
    """A read whose answer is cut goes on from where it broke, and the object is whole."""
    data, passed, cuts = noise(3_000_000), 0, 0

    def spoil(piece: bytes) -> bytes | None:
        nonlocal passed, cuts
        passed += len(piece)
        if cuts == 3 or passed < 700_000 * (cuts + 1):
            return piece
        cuts += 1
        return None

    open_store(s3_url).put("a", data)
    store = through(spoil)
    assert b"".join(store.read("a", chunk=100_000)) == data
    assert cuts == 3
    passed = cuts = 0
    assert store.get("a").data == data


def test_flipped_bit_is_corrupt(through: Through, s3_url: str) -> None:
    """A small object that arrives with one bit flipped is Corrupt."""
    open_store(s3_url).put("a", b"the content")
    store = through(lambda data: data.replace(b"the content", b"the bontent"))
    with pytest.raises(Corrupt, match="/a: "):
        store.get("a")
    with pytest.raises(Corrupt):
        list(store.read("a"))


def test_changed_while_read(through: Through, s3_url: str) -> None:
    """A read that breaks while the object is replaced is a Conflict, not a mixture of the two."""
    direct, passed = open_store(s3_url), 0

    def spoil(piece: bytes) -> bytes | None:
        nonlocal passed
        passed += len(piece)
        if not 500_000 < passed < 1_000_000:
            return piece
        passed = 1_000_000
        direct.put("a", noise(1_000_001))
        return None

    direct.put("a", noise(1_000_000))
    with pytest.raises(Conflict, match="another writer"):
        list(through(spoil).read("a", chunk=100_000))


def test_no_bucket(s3_url: str) -> None:
    """A bucket that does not exist is its own error, never taken for a missing object."""
    store = open_store("s3://no-such-bucket/run")
    for act in (
        lambda: store.get("a"),
        lambda: store.put("a", b""),
        lambda: store.put_if_absent("a", b""),
        lambda: store.put_if_match("a", b"", '"0"'),
        lambda: list(store.list("")),
    ):
        with pytest.raises(
            StoreError, match=r"no-such-bucket.*no such bucket; create it"
        ) as caught:
            act()
        assert not isinstance(caught.value, Missing | Conflict)


def test_refused_connection(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If nothing listens at the endpoint, the store is Unavailable and names the endpoint."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and never listens
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(Unavailable, match=f"no answer from {endpoint}"):
            open_store(s3_url).put("a", b"x")


def test_silent_server(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts connections and never answers is given up after its timeouts."""
    monkeypatch.setattr("job.store.s3_client.READ_SECONDS", 0.2)
    monkeypatch.setattr("job.store.s3_client.ATTEMPTS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(Unavailable, match="ReadTimeoutError"):
            open_store(s3_url).get("a")
