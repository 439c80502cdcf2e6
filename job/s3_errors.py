"""What boto3 reports, in the store's words: which object, what happened, what to check."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as boto
from urllib3.exceptions import HTTPError

from job.store import (
    Conflict,
    Corrupt,
    Forbidden,
    Missing,
    StoreError,
    Unavailable,
    Unsupported,
)

CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
)
NO_ANSWER = (
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    HTTPError,
    OSError,
)
REFUSED = ("ExpiredToken", "InvalidToken", "InvalidAccessKeyId")
"""Codes that some servers send with 400 instead of 403."""


class Busy(Unavailable):
    """A conditional write met another one (409); to be tried again."""


class Ended(Unavailable):
    """The multipart upload is no more: aborted, or completed and the answer lost."""


@contextmanager
def told(name: str, endpoint: str) -> Iterator[None]:
    """Raise what boto3 raises as a StoreError about the object `name`."""
    try:
        yield
    except boto.ClientError as error:
        kind, text = classify(error)
        raise kind(f"{name}: {text}") from error
    except NO_CREDENTIALS as error:
        raise Forbidden(f"{name}: no credentials found; set {CREDENTIALS}") from error
    except boto.FlexibleChecksumError as error:
        raise Corrupt(f"{name}: what arrived does not have the stored checksum") from error
    except NO_ANSWER as error:
        what = f"no answer from {endpoint} ({type(error).__name__})"
        raise Unavailable(f"{name}: {what}; check the network and AWS_ENDPOINT_URL") from error
    except boto.BotoCoreError as error:
        raise StoreError(f"{name}: {error}") from error


def classify(error: boto.ClientError) -> tuple[type[StoreError], str]:
    """Which StoreError an answer of the server is, and what to tell of it."""
    problem = error.response.get("Error", {})
    code = str(problem.get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if status in (401, 403) or code in REFUSED:
        return Forbidden, (
            f"access denied ({status} {code}); check {CREDENTIALS}, their rights and the clock; "
            "where they may not list the bucket, a missing object is answered so too"
        )
    match code, status:
        case "NoSuchKey", _:
            return Missing, "no such object"
        case "NoSuchBucket", _:
            return StoreError, "no such bucket; create it or correct the store's URL"
        case "NoSuchUpload", _:
            return Ended, "the upload was aborted, or completed and the answer lost"
        case _, 404:
            return StoreError, "404 without S3's NoSuchKey; is AWS_ENDPOINT_URL an S3 server?"
        case _, 412:
            return Conflict, "another writer was first"
        case _, 409:
            return Busy, f"another write was under way ({code})"
        case _, 501:
            return Unsupported, f"the server does not know this request ({code})"
        case _ if status >= 500 or status in (408, 429) or code in ("RequestTimeout", "SlowDown"):
            return Unavailable, f"the server could not answer ({status} {code})"
    return StoreError, f"{status} {code}: {problem.get('Message', '')}"
