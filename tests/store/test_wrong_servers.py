"""Endpoints that are no S3 server: one line says so, whatever they answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from job.store import Forbidden, Store, StoreError, WrongServer, open_store
from tests.support.http_stub import Reply, answering, error_document

LOOPBACK = Path(__file__).with_name("loopback.pem")
"""A self-signed certificate of 127.0.0.1, and its key, which is good for nothing else."""
PAGE = "<!DOCTYPE html><html><head><title>Console</title></head><body><p>Log in<br></body></html>"
XHTML = "<html><body><p>Log in</p></body></html>"
OPERATIONS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: store.get("a"),
    "read": lambda store: list(store.read("a")),
    "put": lambda store: store.put("a", b"x"),
    "put_if_absent": lambda store: store.put_if_absent("a", b"x"),
    "put_if_match": lambda store: store.put_if_match("a", b"x", '"0"'),
    "upload": lambda store: store.upload("a", [bytes(6 << 20)], part=5 << 20),
    "list": lambda store: list(store.list("a")),
    "abort_uploads": lambda store: store.abort_uploads("a"),
    "conditional": lambda store: store.conditional("a"),
}


def failures(
    monkeypatch: pytest.MonkeyPatch, s3_url: str, reply: Reply
) -> Iterator[tuple[StoreError, list[str]]]:
    """The error of each operation if everything gets this reply, and the requests sent for it."""
    with answering(reply) as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL", stub.url)
        store = open_store(s3_url)
        for name, act in OPERATIONS.items():
            stub.requests.clear()
            with pytest.raises(StoreError) as caught:
                act(store)
            assert str(caught.value).count("\n") == 0, name
            assert str(caught.value).startswith(s3_url), name
            yield caught.value, stub.requests


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect(s3_url: str, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """A server that redirects everything is no S3 server; the message says where it redirects to,
    without a query, and no request follows."""
    reply = Reply(status, "", {"Location": "https://me:hidden@web.example/login?token=hidden"})
    for error, requests in failures(monkeypatch, s3_url, reply):
        assert type(error) is WrongServer
        assert f"({status}: it redirects to https://…@web.example/login?…)" in str(error)
        assert "is AWS_ENDPOINT_URL an S3 server" in str(error)
        assert "hidden" not in str(error)
        assert len(requests) <= 4


def test_redirect_to_another_region(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect with S3's own document, of a server that has no regions, is one line too."""
    reply = Reply(301, error_document("PermanentRedirect", "Use the specified endpoint."))
    for error, _ in failures(monkeypatch, s3_url, reply):
        assert "(301: it redirects)" in str(error)


@pytest.mark.parametrize("body", [PAGE, XHTML, "", '{"status": "ok"}'])
def test_page_instead_of_an_answer(s3_url: str, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A web page, an empty page and JSON with status 200 are none of S3's answers; no list is
    taken for empty."""
    for error, _ in failures(monkeypatch, s3_url, Reply(200, body)):
        assert type(error) is WrongServer
        assert "is AWS_ENDPOINT_URL an S3 server" in str(error)


@pytest.mark.parametrize("status", [400, 404, 405, 418])
def test_error_page(s3_url: str, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """An error without S3's document is a web server's: never a missing object or an empty list."""
    for error, _ in failures(monkeypatch, s3_url, Reply(status, PAGE)):
        assert type(error) is WrongServer
        assert str(status) in str(error)


def test_untrusted_certificate(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that is not trusted is its own cause, and names AWS_CA_BUNDLE, which helps."""
    with answering(Reply(200, PAGE), LOOPBACK) as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL", stub.url)
        with pytest.raises(Forbidden, match=r"certificate.*self-signed.*AWS_CA_BUNDLE"):
            open_store(s3_url).get("a")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(LOOPBACK))
        with pytest.raises(WrongServer):
            open_store(s3_url).get("a")


def test_no_tls(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """https:// for a server that speaks plain HTTP names the scheme."""
    with answering(Reply(200, PAGE)) as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL", stub.url.replace("http:", "https:"))
        with pytest.raises(WrongServer, match="http:// instead of https://"):
            open_store(s3_url).get("a")
