"""The contract of a store, kept by the directory and by a real S3 server alike."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from job.faults import InputError
from job.store import (
    Bytes,
    Conflict,
    Corrupt,
    Forbidden,
    Missing,
    Store,
    StoreError,
    Unavailable,
    Unsupported,
    open_store,
)
from job.store_directory import DirectoryStore
from tests.seaweed import SECRET_KEY, Server

PART = 5 << 20  # the smallest that S3 allows


def keys(store: Store, prefix: str = "") -> list[str]:
    return [entry.key for entry in store.list(prefix)]


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process that runs `code`, its pipes open to us."""
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert process.stdout
    return process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


# --- what is put is what is got ---------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_round_trip(store: Store, size: int) -> None:
    """An object of any size comes back whole, with the etag that its write returned."""
    data = noise(size)
    etag = store.put("a/b", data)
    assert store.get("a/b") == (data, etag)
    assert b"".join(store.read("a/b", chunk=100_000)) == data
    assert [tuple(entry) for entry in store.list()] == [("a/b", size)]


def test_memoryview(store: Store) -> None:
    """A view of a larger buffer, of any element type, is written as its bytes."""
    view = memoryview(bytearray(range(64))).cast("i")[2:5]
    store.put("put", view)
    store.upload("upload", [view, view])
    assert store.get("put").data == bytes(range(8, 20))
    assert store.get("upload").data == bytes(range(8, 20)) * 2


def test_unicode_key(store: Store) -> None:
    """A key may hold blanks, signs that URLs escape, and letters of any script."""
    key = "läufe/日本 +%&?#=/ü.json"
    store.put(key, b"x")
    assert store.get(key).data == b"x"
    assert keys(store) == [key]
    store.delete(key)
    assert keys(store) == []


def test_overwrite(store: Store) -> None:
    """A second put replaces the object and changes its etag."""
    first, second = store.put("a", b"first"), store.put("a", b"2nd")
    assert first != second
    assert store.get("a") == (b"2nd", second)


def test_delete_is_idempotent(store: Store) -> None:
    """A deleted object is Missing; deleting it again, or what never was, is no error."""
    store.put("a/b/c", b"x")
    for _ in range(2):
        store.delete("a/b/c")
        with pytest.raises(Missing, match="a/b/c"):
            store.get("a/b/c")
    store.delete("never")


def test_missing(store: Store) -> None:
    """Reading what is not there is Missing, also where only a folder has the name."""
    store.put("a/b", b"x")
    for key in ("none", "a", "a/b/c", "none/none"):
        with pytest.raises(Missing):
            store.get(key)
        with pytest.raises(Missing):
            next(store.read(key))


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../up", "a/../../b", "a//b", "a/", ".lock"])
def test_keys_stay_inside(store: Store, key: str) -> None:
    """A key that could leave the root, or hide in it, is refused by every operation."""
    for act in (store.get, store.delete, lambda key: store.put(key, b"")):
        with pytest.raises(ValueError, match="is no key"):
            act(key)


# --- listing ----------------------------------------------------------------------------------


def test_list_is_sorted_and_complete(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """All keys of a prefix are listed in order, over more than one page, and no others."""
    monkeypatch.setattr("job.store_s3.PAGE", 7)
    numbers = [f"run/{number:03d}" for number in range(40)]
    wanted = [*numbers, "run/a/x", "run/a-b", "run/Z", "run/é"]
    for key in random.Random(0).sample([*wanted, "ru", "runs/1", "other/run/1"], len(wanted) + 3):
        store.put(key, b"x")
    assert keys(store, "run/") == sorted(wanted)
    assert keys(store, "run/00") == numbers[:10]
    assert keys(store, "run") == sorted([*wanted, "runs/1"])
    assert keys(store, "none/") == []


# --- conditions -------------------------------------------------------------------------------


def test_put_if_absent(store: Store) -> None:
    """A first write succeeds, a second is a Conflict and changes nothing, a deletion resets."""
    etag = store.put_if_absent("a", b"first")
    with pytest.raises(Conflict, match="/a: another writer was first"):
        store.put_if_absent("a", b"second")
    assert store.get("a") == (b"first", etag)
    store.delete("a")
    store.put_if_absent("a", b"third")


def test_put_if_match(store: Store) -> None:
    """Only the holder of the present etag may write, not of an older or a made-up one."""
    old = store.put("a", b"first")
    new = store.put_if_match("a", b"second", old)
    for etag in (old, '"00000000000000000000000000000000"'):
        with pytest.raises(Conflict):
            store.put_if_match("a", b"third", etag)
    assert store.get("a") == (b"second", new)
    store.delete("a")
    with pytest.raises(Conflict):
        store.put_if_match("a", b"third", new)
    assert keys(store) == []


def test_conditional(store: Store) -> None:
    """The probe finds conditional writes on both, and leaves nothing behind."""
    assert store.conditional("run/")
    assert keys(store) == []


def test_one_winner_among_threads(store: Store) -> None:
    """Of three threads that write at once under one condition, exactly one wins, every time."""
    together = threading.Barrier(3)

    def wins(etag: str | None) -> bool:
        nonce = uuid.uuid4().bytes
        together.wait()
        try:
            if etag is None:
                store.put_if_absent("race", nonce)
            else:
                store.put_if_match("race", nonce, etag)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        for number in range(20):
            store.delete("race")
            etag = store.put("race", b"old") if number % 2 else None
            assert sum(pool.map(wins, [etag] * 3)) == 1


COUNT = """
    import json, sys, uuid
    from job.store import Conflict, open_store
    store, conflicts, done = open_store(sys.argv[1]), 0, 0
    print("ready", flush=True)
    sys.stdin.readline()
    while done < 40:
        was = store.get("count")
        count = {"n": json.loads(was.data)["n"] + 1, "nonce": uuid.uuid4().hex}
        try:
            store.put_if_match("count", json.dumps(count).encode(), was.etag)
            done += 1
        except Conflict:
            conflicts += 1
    print(conflicts)
"""


def test_no_update_is_lost_between_processes(store: Store, store_url: str) -> None:
    """Two processes that each raise one number 40 times by put_if_match raise it by 80."""
    store.put("count", b'{"n": 0}')
    processes = [child(COUNT, store_url) for _ in range(2)]
    for process in processes:
        assert line(process) == "ready"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    conflicts = [int(process.communicate()[0]) for process in processes]
    assert json.loads(store.get("count").data)["n"] == 80
    assert sum(conflicts) > 0, "the two never met"


# --- large objects ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1000, PART, 2 * PART + 1000])
def test_upload(store: Store, size: int) -> None:
    """What comes in pieces of any size is one object, larger than a part or not."""
    data = noise(size)
    cuts = sorted(random.Random(1).choices(range(size + 1), k=9))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
    etag = store.upload("a/b", pieces, part=PART)
    assert hashlib.sha256(b"".join(store.read("a/b"))).digest() == hashlib.sha256(data).digest()
    assert store.get("a/b").etag == etag
    assert [tuple(entry) for entry in store.list()] == [("a/b", size)]
    assert store.abort_uploads() == 0


def test_failing_upload_leaves_nothing(store: Store) -> None:
    """An upload whose source fails raises that error and leaves no object and no piece of one."""

    def source() -> Iterator[bytes]:
        yield noise(PART)
        yield noise(PART)
        raise OSError("the source broke")

    with pytest.raises(OSError, match="the source broke"):
        store.upload("a/b", source(), part=PART)
    assert keys(store) == []
    assert store.abort_uploads() == 0


UPLOAD = """
    import sys, time
    from job.store import open_store
    def source():
        yield bytes(11 << 20)
        print("ready", flush=True)
        time.sleep(60)
    open_store(sys.argv[1]).upload("run/1/model", source(), part=5 << 20)
"""


def test_killed_upload_is_aborted(store: Store, store_url: str) -> None:
    """What a killed process left of an upload is no object; its run can remove it, others don't."""
    process = child(UPLOAD, store_url)
    assert line(process) == "ready"
    kill(process)
    assert keys(store) == []
    assert store.abort_uploads("run/2") == 0
    assert store.abort_uploads("run/1/") == 1
    assert store.abort_uploads() == 0


def test_aborted_upload_fails(store: Store) -> None:
    """An upload that another process aborts is Unavailable, and there is no object."""

    def source() -> Iterator[bytes]:
        yield noise(PART)
        yield noise(PART)
        assert store.abort_uploads("a/") == 1
        yield noise(PART)

    with pytest.raises(Unavailable):
        store.upload("a/b", source(), part=PART)
    assert keys(store) == []


# --- S3 alone ---------------------------------------------------------------------------------


Spoil = Callable[[bytes], bytes | None]


class Proxy:
    """Passes bytes on between boto3 and the server, the server's answers through `spoil`.

    `spoil` returns what is passed on of a piece, or None to cut the connection there.
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
    """A conditional write whose answer is lost, so that boto3's second try is refused, succeeds."""
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
    """A conditional write answered 409, as AWS does when two meet, is tried again."""
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
    """An answer cut in its body is taken up where it broke, and the object comes whole."""
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
    """A small object that arrives with one bit flipped is Corrupt, not believed."""
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


def told(error: pytest.ExceptionInfo[StoreError]) -> str:
    """All that a user may come to read of an error, its causes included."""
    return "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(s3_url: str, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """Refused credentials are Forbidden on every operation; the message names object and
    variables, and never a secret."""
    monkeypatch.setenv(wrong, "wrong-value-7f3a")
    store = open_store(s3_url)
    for act in (store.get, store.delete, store.conditional, lambda key: store.put(key, b"")):
        with pytest.raises(Forbidden) as caught:
            act("a")
        assert f"{s3_url}/a" in str(caught.value)
        assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in str(caught.value)
        assert "7f3a" not in told(caught)
        assert SECRET_KEY not in told(caught)
    for ask in (lambda: list(store.list("")), store.abort_uploads):
        with pytest.raises(Forbidden):
            ask()


def test_no_credentials(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials the message names the variables to set."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(Forbidden, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_store(s3_url).get("a")


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
    """Where nothing listens, the store is Unavailable within 15 s, and the endpoint is named."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and never listens
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        start = time.monotonic()
        with pytest.raises(Unavailable, match=f"no answer from {endpoint}"):
            open_store(s3_url).put("a", b"x")
        assert time.monotonic() - start < 15


def test_silent_server(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts and says nothing is given up after its timeouts, not waited for."""
    monkeypatch.setattr("job.store_s3.READ_SECONDS", 0.2)
    monkeypatch.setattr("job.store_s3.ATTEMPTS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(Unavailable, match="ReadTimeoutError"):
            open_store(s3_url).get("a")
        assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "NoSuchKey", Missing),
        (404, "", StoreError),
        (400, "ExpiredToken", Forbidden),
        (501, "NotImplemented", Unsupported),
        (503, "SlowDown", Unavailable),
    ],
)
def test_answers(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, status: int, code: str, kind: type[StoreError]
) -> None:
    """Each answer is its own error; a 404 of what may be no S3 server is no missing object."""
    monkeypatch.setattr("job.store_s3.ATTEMPTS", 1)
    with answering(status, code) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        with pytest.raises(StoreError, match=f"{s3_url}/a: ") as caught:
            open_store(s3_url).get("a")
    assert type(caught.value) is kind


def test_match_of_nothing(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS answers If-Match on a missing key with 404: a Conflict as on any other server."""
    with answering(404, "NoSuchKey") as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        with pytest.raises(Conflict):
            open_store(s3_url).put_if_match("a", b"mine", '"0"')


@contextmanager
def answering(status: int, code: str) -> Iterator[int]:
    """The port of a web server that answers every request with this error."""
    body = f"<Error><Code>{code}</Code></Error>" if code else ""
    head = f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall((head + body).encode())

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


# --- the directory alone ----------------------------------------------------------------------


WRITE = """
    import itertools, sys
    from job.store import open_store
    store = open_store(sys.argv[1])
    for number in itertools.count():
        store.put("a/b", bytes([number % 256]) * 2_000_000)
        print(number, flush=True)
"""


def test_killed_writer_tears_nothing(tmp_path: Path) -> None:
    """A process that overwrites an object, killed 15 times at random instants, shows nothing but
    whole objects, to readers meanwhile and after; it leaves no lock, and litter to sweep away."""
    store, moments, litter = open_store(tmp_path), random.Random(5), 0

    def look() -> None:
        data = store.get("a/b").data
        assert data.count(data[:1]) == 2_000_000

    for _ in range(15):
        process = child(WRITE, str(tmp_path))
        assert line(process) == "0"
        moment = time.monotonic() + moments.uniform(0, 0.05)
        while time.monotonic() < moment:
            look()
        kill(process)
        look()
        assert keys(store) == ["a/b"]
        litter += store.abort_uploads("a/")
    assert litter > 0, "no write was ever cut off"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "a", "b"]


def test_frozen_holder_of_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that another holds for too long makes writing Unavailable, never endless; reading
    needs none."""
    monkeypatch.setattr("job.store_directory.LOCK_SECONDS", 0.2)
    store = open_store(tmp_path)
    store.put("a", b"x")
    with (tmp_path / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match=r"held \.lock"):
            store.put("a", b"y")
        assert store.get("a").data == b"x"
    store.put("a", b"y")


def test_forbidden_directory(tmp_path: Path) -> None:
    """A directory that may not be entered is Forbidden for reading, listing and writing: it is
    not empty."""
    store = open_store(tmp_path / "store")
    store.put("a/b", b"x")
    with closed(tmp_path / "store"):
        for act in (
            lambda: store.get("a/b"),
            lambda: list(store.list("")),
            lambda: store.put("a/b", b"y"),
            lambda: store.delete("a/b"),
        ):
            with pytest.raises(Forbidden, match="Permission denied"):
                act()
    assert store.get("a/b").data == b"x"


@contextmanager
def closed(folder: Path) -> Iterator[None]:
    """Bar ourselves from a folder for a while; root must become another user for that."""
    user, mode = os.geteuid(), folder.stat().st_mode
    folder.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(mode)


def test_folders_do_not_pile_up(tmp_path: Path) -> None:
    """Deleting the last object of a folder takes the folder away, up to the root, not over it."""
    store = open_store(tmp_path / "store")
    store.put("a/b/c/d", b"x")
    store.put("a/e", b"x")
    store.delete("a/b/c/d")
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [".lock", "a"]
    assert [path.name for path in (tmp_path / "store" / "a").iterdir()] == ["e"]
    store.delete("a/e")
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".lock"]


def test_reading_makes_no_directory(tmp_path: Path) -> None:
    """Looking for a run in a place that does not exist finds nothing and leaves nothing."""
    store = open_store(tmp_path / "store")
    assert keys(store) == []
    store.delete("a")
    assert store.abort_uploads() == 0
    with pytest.raises(Missing):
        store.get("a")
    assert not (tmp_path / "store").exists()


class IgnoresAbsence(DirectoryStore):
    """Like a server that does not know If-None-Match."""

    def put_if_absent(self, key: str, data: Bytes) -> str:
        return self.put(key, data)


class IgnoresMatch(DirectoryStore):
    """Like a server that does not know If-Match."""

    def put_if_match(self, key: str, data: Bytes, etag: str) -> str:
        return self.put(key, data)


class RefusesConditions(DirectoryStore):
    """Like a server that answers 501 to If-None-Match."""

    def put_if_absent(self, key: str, data: Bytes) -> str:
        raise Unsupported(key)


@pytest.mark.parametrize("kind", [IgnoresAbsence, IgnoresMatch, RefusesConditions])
def test_probe_finds_what_is_ignored(tmp_path: Path, kind: type[DirectoryStore]) -> None:
    """A store that ignores either condition, or refuses them, is found out, and left clean."""
    store = kind(tmp_path)
    assert not store.conditional("run/")
    assert keys(store) == []


# --- opening ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["gs://bucket/run", "s3://", "s3:///run", "s3://AKIAX:hidden@bucket/run"]
)
def test_wrong_url(url: str) -> None:
    """What is neither a directory nor s3://bucket/prefix is told, without any secret in it."""
    with pytest.raises(InputError, match="a store is s3://bucket/prefix or a directory") as caught:
        open_store(url)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint", ["localhost:9000", "user:hidden@localhost", "http://user:hidden@127.0.0.1:9000"]
)
def test_wrong_endpoint(s3_url: str, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """An endpoint that is no URL, or that holds a password, is told before anything is sent."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(InputError, match="AWS_") as caught:
        open_store(s3_url)
    assert "hidden" not in "".join(traceback.format_exception(caught.value))


def test_bucket_without_prefix(s3_url: str) -> None:
    """A store may be a whole bucket: keys are then the server's own."""
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    open_store(s3_url + "/").put("a", b"x")
    assert keys(open_store(f"s3://{bucket}"), prefix) == [f"{prefix}/a"]


def test_directory_needs_no_boto3(tmp_path: Path) -> None:
    """A store in a directory is opened and written without boto3 being imported."""
    code = """
        import sys
        from job.store import open_store
        open_store(sys.argv[1]).put("a", b"x")
        print("boto3" in sys.modules or "botocore" in sys.modules)
    """
    assert child(code, str(tmp_path)).communicate()[0] == "False\n"
