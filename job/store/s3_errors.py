"""Errors of boto3 and of the server as StoreErrors of one line: object, cause, what to check.

The server's own message is part of it, without control characters and without secrets.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from botocore import exceptions as boto
from urllib3.exceptions import HTTPError

from job.store.base import (
    Conflict,
    Corrupt,
    Forbidden,
    Missing,
    StoreError,
    Unavailable,
    Unsupported,
    WrongServer,
)

CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
CHECKSUMS = "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.UnauthorizedSSOTokenError,
    boto.SSOTokenLoadError,
    boto.ConfigParseError,
    boto.ConfigNotFound,
    boto.ProfileNotFound,
)
NO_ANSWER = (
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    HTTPError,
    OSError,
)
LONGEST = 300
"""Characters of a server's message that are shown."""


class Busy(Unavailable):
    """A conditional write met another one (409); to be tried again."""


class Ended(Unavailable):
    """The multipart upload is no more: aborted, or completed and the answer lost."""


class Full(Forbidden):
    """The server's quota or disk is full."""


class Untrusted(Forbidden):
    """The server's certificate is refused."""


class ForeignAnswer(Exception):
    """An answer that no S3 server gives; the text says what it is."""


class Cause(NamedTuple):
    """Why a server refuses a request, by its code or its message."""

    codes: frozenset[str]
    words: str
    """Regular expression for the message, where a code covers several causes."""
    advice: str


EXPLICIT_DENY = Cause(
    frozenset(),
    r"explicit deny",
    "a policy denies it explicitly, so no further grant helps; change the policy of the bucket, "
    "the user or the session",
)
EXPIRED = Cause(
    frozenset(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken")),
    r"token\b.*\bexpired",
    "the session token has expired or does not belong to the key; get new temporary credentials, "
    "or remove AWS_SESSION_TOKEN if the key needs none",
)
CLOCK = Cause(
    frozenset(("RequestTimeTooSkewed", "RequestExpired")),
    r"request has expired|time.*(skew|too large)",
    "this machine's clock is wrong; set it",
)
UNKNOWN_KEY = Cause(
    frozenset(("InvalidAccessKeyId",)),
    r"access key.*(not exist|not found|unknown)",
    "the server does not know this AWS_ACCESS_KEY_ID: it was deleted, replaced, or is of another "
    f"server; check {CREDENTIALS}",
)
SIGNATURE = Cause(
    frozenset(("SignatureDoesNotMatch",)),
    r"",
    "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID, or a proxy alters requests; "
    f"check {CREDENTIALS}",
)
FULL = Cause(
    frozenset(
        (
            *("QuotaExceeded", "ServiceQuotaExceeded", "StorageLimitExceeded"),
            *("XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "InsufficientStorage"),
        )
    ),
    r"\bquota\b|storage (limit|is full)|insufficient storage|no space left|disk is full",
    "the server's quota or disk is full; raise it or delete what is not needed",
)
KEY_MANAGEMENT = Cause(
    frozenset(),
    r"\bkms\b",
    "the encryption key is missing, disabled, or these credentials may not use it; check "
    "checkpoint.encryption and the key's policy",
)
CAUSES = (EXPLICIT_DENY, EXPIRED, CLOCK, UNKNOWN_KEY, SIGNATURE, FULL, KEY_MANAGEMENT)
"""The first that fits counts."""
REFUSED = EXPIRED.codes | UNKNOWN_KEY.codes | FULL.codes
"""Codes that some servers send with another status than 401 or 403."""
TRANSIENT = ("RequestTimeout", "SlowDown")
NO_RIGHTS = (
    f"check {CREDENTIALS}, their rights and the clock; if they may not list the bucket, the "
    "server answers so for a missing object too"
)


@contextmanager
def translate_errors(name: str, endpoint: str, secrets: Iterable[str]) -> Iterator[None]:
    """Raise what boto3 raises as a StoreError about the object `name`.

    secrets: values that are cut out of the server's messages.
    """
    try:
        yield
    except (StoreError, MemoryError):
        raise
    except boto.ClientError as error:
        kind, text = classify(error, endpoint, secrets)
        # The cause holds the server's message as it came.
        raise kind(f"{name}: {text}") from None
    except ForeignAnswer as error:
        raise WrongServer(f"{name}: {not_s3(endpoint, str(error))}") from None
    except NO_CREDENTIALS as error:
        raise Forbidden(f"{name}: {_no_credentials(error)}") from error
    except boto.FlexibleChecksumError as error:
        raise Corrupt(f"{name}: what arrived does not have the stored checksum") from error
    except NO_ANSWER as error:
        raise _no_answer(name, endpoint, error) from error
    except boto.ParamValidationError as error:
        raise StoreError(f"{name}: {quoted(str(error), secrets)}") from None
    except Exception as error:  # boto3 raises anything at what it does not expect
        raise WrongServer(f"{name}: {not_s3(endpoint, type(error).__name__)}") from error


def not_s3(endpoint: str, what: str) -> str:
    """The text about an answer that is none of S3's; `what` is wrong with it."""
    return (
        f"{endpoint} does not answer as S3 does ({what}); is AWS_ENDPOINT_URL an S3 server, with "
        "the right scheme and port, and not its console or a web page?"
    )


def without_credentials(text: str) -> str:
    """A text with URLs in it, without users, passwords and queries."""
    return re.sub(r"[?#][^\s\"']*", "?…", re.sub(r"[^\s/\"']*@", "…@", text))


def quoted(message: str, secrets: Iterable[str]) -> str:
    """A server's message for a person: one line, without control characters and secrets."""
    for secret in sorted(secrets, key=len, reverse=True):
        message = message.replace(secret, "…")
    line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    line = re.sub(r"//[^\s/@]*@", "//…@", line)
    line = re.sub(r"((?:Signature|Credential|Security-Token|token)=)[^\s&,\"']+", r"\1…", line)
    line = re.sub(r"[A-Za-z0-9+=_-]{60,}", "…", line)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def classify(
    error: boto.ClientError, endpoint: str, secrets: Iterable[str]
) -> tuple[type[StoreError], str]:
    """The StoreError for an answer of the server, and its text."""
    problem = error.response.get("Error", {})
    code, message = str(problem.get("Code", "")), str(problem.get("Message", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if not code or code.isdigit():  # botocore's own words for an answer without S3's document
        return _without_document(status, endpoint)
    text = quoted(message, secrets)
    answer = f"{status} {quoted(code, secrets)}{f': {text}' if text else ''}"
    cause = _cause(code, message)
    if _may_pass(status) or code in TRANSIENT:
        return Unavailable, f"the server could not answer ({answer}){_after(cause)}"
    if status in (401, 403) or code in REFUSED:
        if cause is FULL:
            return Full, f"no room ({answer}); {cause.advice}"
        return Forbidden, f"access denied ({answer}); {cause.advice if cause else NO_RIGHTS}"
    return _by_code(code, status, answer, cause)


def _may_pass(status: int) -> bool:
    return status in (408, 429) or (status >= 500 and status != 501)


def _cause(code: str, message: str) -> Cause | None:
    by_code = (cause for cause in CAUSES if code in cause.codes)
    by_words = (c for c in CAUSES if c.words and re.search(c.words, f"{code} {message}", re.I))
    return next(by_code, None) or next(by_words, None)


def _after(cause: Cause | None) -> str:
    return f"; {cause.advice}" if cause else ""


def _without_document(status: int, endpoint: str) -> tuple[type[StoreError], str]:
    """An error without S3's document: of a proxy, a web server, or an old server."""
    if _may_pass(status):
        return Unavailable, f"the server could not answer ({status})"
    if status == 412:
        return Conflict, "another writer was first"
    if status == 409:
        return Busy, "another write was under way"
    if status in (401, 403):
        return Forbidden, f"access denied ({status}, without S3's reason); {NO_RIGHTS}"
    if status == 501:
        return Unsupported, f"the server does not know this request (501); {_refusal()}"
    if status == 404:
        return WrongServer, not_s3(endpoint, "404 without S3's NoSuchKey")
    return WrongServer, not_s3(endpoint, f"{status} without S3's error document; {_refusal()}")


def _refusal() -> str:
    return f"a server that refuses checksums needs {CHECKSUMS}"


def _by_code(
    code: str, status: int, answer: str, cause: Cause | None
) -> tuple[type[StoreError], str]:
    match code, status:
        case "NoSuchKey", _:
            return Missing, "no such object"
        case "NoSuchBucket", _:
            return StoreError, (
                "no such bucket; create it or correct the store's URL; the endpoint must not hold "
                "the bucket's name too"
            )
        case "NoSuchUpload", _:
            return Ended, "the upload was aborted, or completed and the answer lost"
        case _, 412:
            return Conflict, "another writer was first"
        case _, 409:
            return Busy, f"another write was under way ({code})"
        case _, 501:
            return Unsupported, f"the server does not know this request ({answer}); {_refusal()}"
        case _, 411:
            return StoreError, f"the request is refused ({answer}); {_refusal()}"
    return StoreError, f"the request is refused ({answer}){_after(cause)}"


def _no_credentials(error: Exception) -> str:
    if isinstance(error, boto.NoCredentialsError):
        return f"no credentials; set {CREDENTIALS}"
    why = quoted(without_credentials(str(error)), ())
    return f"no usable credentials ({why}); set {CREDENTIALS}, or correct the profile"


def _no_answer(name: str, endpoint: str, error: Exception) -> StoreError:
    if certificate := _certificate_fault(error):
        return Untrusted(
            f"{name}: the certificate of {endpoint} is refused ({certificate}); correct "
            "AWS_ENDPOINT_URL or the clock, or name the server's authority in AWS_CA_BUNDLE"
        )
    if isinstance(error, boto.SSLError) and re.search(r"WRONG_VERSION|RECORD_LAYER", str(error)):
        return WrongServer(f"{name}: {not_s3(endpoint, 'no TLS: http:// instead of https://?')}")
    what = f"no answer from {endpoint} ({type(error).__name__})"
    return Unavailable(f"{name}: {what}; check the network and AWS_ENDPOINT_URL")


def _certificate_fault(error: BaseException | None) -> str:
    """Why a server's certificate was refused; "" if that is not the cause."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return str(error.verify_message)
        inner = [value for value in error.args if isinstance(value, BaseException)]
        kept = getattr(error, "kwargs", {}).get("error")  # botocore's
        error = next(iter(inner), None) or kept or error.__cause__ or error.__context__
    return ""
