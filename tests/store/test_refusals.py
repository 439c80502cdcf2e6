"""A server that refuses: which error it is, what its message says, and what is tried again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from job.spec import Encryption as EncryptionSection
from job.store import (
    AccessLost,
    Conflict,
    Encryption,
    Forbidden,
    Missing,
    Store,
    StoreError,
    Unavailable,
    Unsupported,
    WrongServer,
    open_store,
)
from tests.support.faulty_proxy import Answer, Fault, Proxy, Request
from tests.support.http_stub import Reply, answering, error_document
from tests.support.s3_server import (
    ACCESS_KEY,
    NEXT_ACCESS_KEY,
    NEXT_SECRET_KEY,
    SECRET_KEY,
)
from tests.support.stores import keys, whole_text

# --- from the start ---------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(s3_url: str, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """Refused credentials are Forbidden on every operation; the message names the object and the
    variables, and never holds a secret."""
    monkeypatch.setenv(wrong, "wrong-value-7f3a")
    store = open_store(s3_url)
    for act in (store.get, store.delete, store.conditional, lambda key: store.put(key, b"")):
        with pytest.raises(Forbidden) as caught:
            act("a")
        assert f"{s3_url}/a" in str(caught.value)
        assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in str(caught.value)
        assert "7f3a" not in whole_text(caught)
        assert SECRET_KEY not in whole_text(caught)
    for ask in (lambda: list(store.list("")), store.abort_uploads):
        with pytest.raises(Forbidden):
            ask()


def test_no_credentials(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials the message names the variables to set."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(Forbidden, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_store(s3_url).get("a")


def answer_to(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, reply: Reply, act: Callable[[Store], object]
) -> StoreError:
    """The error of an operation on a server that always gives this reply."""
    monkeypatch.setattr("job.store.s3_client.ATTEMPTS", 1)
    with answering(reply) as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL", stub.url)
        with pytest.raises(StoreError, match=f"{s3_url}/a: ") as caught:
            act(open_store(s3_url))
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "NoSuchKey", Missing),
        (404, "", WrongServer),
        (400, "ExpiredToken", Forbidden),
        (412, "PreconditionFailed", Conflict),
        (501, "NotImplemented", Unsupported),
        (503, "SlowDown", Unavailable),
        (502, "", Unavailable),
    ],
)
def test_answers(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, status: int, code: str, kind: type[StoreError]
) -> None:
    """Each answer is its own error; a 404 without S3's code is no missing object."""
    reply = Reply(status, error_document(code))
    assert type(answer_to(s3_url, monkeypatch, reply, lambda store: store.get("a"))) is kind


@pytest.mark.parametrize(
    ("status", "code", "message", "advice"),
    [
        (403, "ExpiredToken", "The provided token has expired.", "session token has expired"),
        (403, "AccessDenied", "The security token has expired", "session token has expired"),
        (403, "RequestTimeTooSkewed", "The difference is too large", "clock is wrong; set it"),
        (403, "InvalidAccessKeyId", "No such key", "does not know this AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "Check", "AWS_SECRET_ACCESS_KEY does not belong to"),
        (
            403,
            "AccessDenied",
            "User: arn:aws:iam::1:user/me is not authorized to perform: s3:PutObject with an "
            "explicit deny in a resource-based policy",
            "a policy denies it explicitly, so no further grant helps",
        ),
        (403, "QuotaExceeded", "Bucket quota exceeded", "quota or disk is full; raise it"),
        (507, "XMinioStorageFull", "Storage backend has reached", "quota or disk is full"),
        (400, "KMS.DisabledException", "The key is disabled", "check checkpoint.encryption"),
        (401, "Unauthorized", "Who are you", "check AWS_ACCESS_KEY_ID and AWS_SECRET"),
        (500, "InternalError", "We had an internal error", "could not answer"),
    ],
)
def test_causes_are_told_apart(
    s3_url: str,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
    message: str,
    advice: str,
) -> None:
    """A message holds status, code and the server's own words, and advice for this very cause."""
    reply = Reply(status, error_document(code, message))
    text = str(answer_to(s3_url, monkeypatch, reply, lambda store: store.put("a", b"x")))
    assert f"({status} {code}: {message})" in text
    assert advice in text


def test_server_message_is_cleaned(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets, credentials in URLs, control characters and length go from a server's message."""
    message = (
        f"no&#10;\x1b[31m entry for {SECRET_KEY} at https://me:hidden@host/?X-Amz-Signature=hidden "
        + "hidden" * 20
        + " end"
        + " ." * 400
    ).replace("\x1b", "\x9b")  # XML has no ESC, but has the other control sequence introducer
    reply = Reply(403, error_document("AccessDenied", message))
    text = str(answer_to(s3_url, monkeypatch, reply, lambda store: store.get("a")))
    assert text.isprintable()
    assert "no [31m entry for … at https://…@host/?X-Amz-Signature=… … end ." in text
    assert "hidden" not in text
    assert SECRET_KEY not in text
    assert len(text) < 800


def test_match_of_nothing(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS answers If-Match on a missing key with 404: a Conflict as on any other server."""
    reply = Reply(404, error_document("NoSuchKey"))
    error = answer_to(s3_url, monkeypatch, reply, lambda s: s.put_if_match("a", b"mine", '"0"'))
    assert type(error) is Conflict


# --- after a first success --------------------------------------------------------------------


def expired(_: Request) -> Answer:
    return Answer(403, "ExpiredToken", "The provided token has expired.")


def test_refusal_after_success_is_an_outage(proxy: Proxy, s3_url: str) -> None:
    """What the server refuses after it granted it is Unavailable, and the message says that keys
    are replaced and session tokens expire; an operation that never succeeded stays Forbidden."""
    store = open_store(s3_url)
    store.put("a", b"x")
    proxy.rule = expired
    with pytest.raises(AccessLost, match=r"ExpiredToken.*session token.*worked before") as caught:
        store.put("a", b"y")
    assert isinstance(caught.value, Unavailable)
    with pytest.raises(AccessLost):
        store.upload("a", [b"y"])
    with pytest.raises(Forbidden):
        store.get("a")
    proxy.rule = lambda _: None
    store.put("a", b"y")
    assert store.get("a").data == b"y"
    proxy.rule = expired
    with pytest.raises(AccessLost):
        store.get("a")


def test_missing_object_grants_reading(proxy: Proxy, s3_url: str) -> None:
    """A server that says which object is missing has accepted the credentials."""
    store = open_store(s3_url)
    with pytest.raises(Missing):
        store.get("a")
    proxy.rule = expired
    with pytest.raises(AccessLost):
        store.get("a")


@pytest.mark.parametrize("fault", [Answer(403, "QuotaExceeded", "full"), Answer(301, "Moved")])
def test_other_refusals_after_success(proxy: Proxy, s3_url: str, fault: Answer) -> None:
    """A full disk or a proxy's page in the middle of a run may pass, and is no matter of keys."""
    store = open_store(s3_url)
    store.put("a", b"x")
    proxy.rule = lambda _: fault
    with pytest.raises(Unavailable, match="it worked before") as caught:
        store.put("a", b"y")
    assert not isinstance(caught.value, AccessLost)


def test_credentials_are_read_again(
    proxy: Proxy, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a refusal the next try uses the keys that boto3 finds by then; without usable ones
    the store stays Unavailable."""
    shared = tmp_path / "credentials"

    def write(access: str, secret: str) -> None:
        shared.write_text(
            f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"
        )

    write(ACCESS_KEY, SECRET_KEY)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
    store = open_store(s3_url)
    store.put("a", b"x")

    def rotated(request: Request) -> Fault | None:
        return "403" if request.access_key == ACCESS_KEY else None

    proxy.rule = rotated
    for contents in (None, "", "[default\n", "[default]\naws_access_key_id = half\n"):
        if contents is not None:
            shared.write_text(contents)
        with pytest.raises(AccessLost) as caught:
            store.put("a", b"y")
        assert SECRET_KEY not in whole_text(caught)
    write(NEXT_ACCESS_KEY, NEXT_SECRET_KEY)
    store.put("a", b"y")
    assert store.get("a").data == b"y"


# --- checksums --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refusal",
    [
        Answer(400, "InvalidRequest", "x-amz-checksum-crc32"),
        Answer(401, "Unauthorized"),
        Answer(403, "SignatureDoesNotMatch"),
        Answer(411, "MissingContentLength"),
        Answer(501, "NotImplemented", "A header implies functionality"),
    ],
    ids=lambda answer: answer.code,
)
@pytest.mark.parametrize("act", ["put", "conditional"])
def test_server_refuses_checksums(
    proxy: Proxy, s3_url: str, monkeypatch: pytest.MonkeyPatch, refusal: Answer, act: str
) -> None:
    """A server that takes writes without a checksum alone is called that, not wrong keys or a
    server without conditional writes; with the variable that the message names it works."""
    proxy.rule = lambda request: refusal if request.has_checksum else None
    write: Callable[[Store], object] = (
        (lambda store: store.put("run/a", b"x"))
        if act == "put"
        else (lambda store: store.conditional("run/"))
    )
    with pytest.raises(StoreError) as caught:
        write(open_store(s3_url))
    assert type(caught.value) is StoreError
    assert "not with a checksum; set AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in str(
        caught.value
    )
    assert keys(open_store(s3_url)) == []
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    assert write(open_store(s3_url))


def test_server_refuses_conditions(proxy: Proxy, s3_url: str) -> None:
    """A server that answers 501 to conditions, with or without a checksum, refuses these."""
    proxy.rule = lambda request: (
        Answer(501, "NotImplemented") if "if-none-match" in request.headers else None
    )
    assert not open_store(s3_url).conditional("run/")


# --- encryption -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encryption", "headers"),
    [
        (None, {}),
        (EncryptionSection(kind="sse-s3"), {"": "AES256"}),
        (EncryptionSection(kind="aws:kms"), {"": "aws:kms"}),
        (
            EncryptionSection(kind="aws:kms", key_id="k1"),
            {"": "aws:kms", "-aws-kms-key-id": "k1"},
        ),
    ],
)
def test_encryption_headers(
    proxy: Proxy, s3_url: str, encryption: Encryption | None, headers: dict[str, str]
) -> None:
    """Every write asks the server for the encryption of the spec, in one piece or in parts."""
    asked: list[dict[str, str]] = []
    prefix = "x-amz-server-side-encryption"

    def refuse_writes(request: Request) -> Answer | None:
        if not request.writes:
            return None
        about = {name: value for name, value in request.headers.items() if prefix in name}
        asked.append({name.removeprefix(prefix): value for name, value in about.items()})
        return Answer(403, "AccessDenied")

    proxy.rule = refuse_writes
    store = open_store(s3_url, encryption)
    writes: list[Callable[[], str]] = [
        lambda: store.put("a", b"x"),
        lambda: store.put_if_absent("a", b"x"),
        lambda: store.upload("a", [bytes(6 << 20)], part=5 << 20),
    ]
    for write in writes:
        asked.clear()
        with pytest.raises(Forbidden):
            write()
        assert asked[0] == headers
