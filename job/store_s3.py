"""The store in a bucket of S3, or of a server that speaks its protocol.

Endpoint, region and credentials come from boto3's own environment variables: AWS_ENDPOINT_URL,
AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN. With an
endpoint of its own a bucket is addressed by path.

boto3 sends a CRC32 with every write, so that a server stores no damaged bytes. A server that
refuses it needs AWS_REQUEST_CHECKSUM_CALCULATION=when_required, and then nothing notices.
Objects are deleted one at a time, as some servers lack DeleteObjects.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from job.faults import Fault, InputError
from job.s3_errors import Busy, Ended, told
from job.store import (
    CHUNK,
    PART,
    Bytes,
    Conflict,
    Entry,
    Missing,
    Store,
    Stored,
    StoreError,
    Unavailable,
    checked,
)

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
"""Longest silence of the server."""
ATTEMPTS = 4
"""How often a request is sent before the server counts as unavailable."""
PAGE = 1000
"""Keys listed by one request."""


class S3Store(Store):
    """Objects of one bucket under one prefix; safe to use from several threads."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/".lstrip("/")
        self.url = f"s3://{bucket}/{self.prefix}".rstrip("/")
        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            tcp_keepalive=True,
        )
        try:
            self._client = boto3.session.Session().client("s3", config=config)
        except (ValueError, BotoCoreError) as error:  # an endpoint, profile or option misspelt
            raise InputError([_misconfigured(str(error))]) from None
        endpoint = urlsplit(self._client.meta.endpoint_url)
        if "@" in endpoint.netloc:
            raise InputError([_misconfigured("AWS_ENDPOINT_URL with a user or a password in it")])
        self.endpoint = endpoint.geturl()
        self.place = f"{self.endpoint} {self.url}"

    def get(self, key: str) -> Stored:
        """The whole object; raises Missing."""
        etag, pieces = self._stream(key, None)
        return Stored(b"".join(pieces), etag)

    def read(self, key: str, chunk: int = CHUNK) -> Iterator[bytes]:
        """The object in pieces; a connection that breaks is taken up where it broke."""
        yield from self._stream(key, chunk)[1]

    def put(self, key: str, data: Bytes) -> str:
        """Write unconditionally; returns the etag."""
        return self._put(key, data)

    def put_if_absent(self, key: str, data: Bytes) -> str:
        """Write unless the key exists; returns the etag, raises Conflict."""
        return self._put_if(key, data, IfNoneMatch="*")

    def put_if_match(self, key: str, data: Bytes, etag: str) -> str:
        """Replace the object that has this etag; returns the new one, raises Conflict."""
        return self._put_if(key, data, IfMatch=etag)

    def upload(self, key: str, parts: Iterable[Bytes], part: int = PART) -> str:
        """Write what `parts` yields: in one piece if shorter than `part`, else in such parts."""
        pieces = regroup(parts, part)
        first = next(pieces, bytearray())
        if len(first) < part:
            return self._put(key, first)
        with self._told(key):
            upload = self._client.create_multipart_upload(**self._at(key))["UploadId"]
        try:
            return self._upload(key, upload, chain([first], pieces))
        except BaseException:  # also when interrupted: pieces left behind cost money for ever
            with suppress(StoreError):
                self._abort(key, upload)
            raise

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All objects whose key begins with `prefix`, sorted by key."""
        # Not every server sorts as AWS does: SeaweedFS lists a/x before a-b.
        yield from sorted(
            Entry(item["Key"].removeprefix(self.prefix), item["Size"])
            for item in self._pages("list_objects_v2", "Contents", prefix)
            if not item["Key"].endswith("/")  # a folder made by hand in a web console
        )

    def delete(self, key: str) -> None:
        """Remove the object, if it is there."""
        with suppress(Missing), self._told(key):
            self._client.delete_object(**self._at(key))

    def abort_uploads(self, prefix: str = "") -> int:
        """Abort the multipart uploads under `prefix`; returns how many there were."""
        uploads = [*self._pages("list_multipart_uploads", "Uploads", prefix)]
        for upload in uploads:
            self._abort(upload["Key"].removeprefix(self.prefix), upload["UploadId"])
        return len(uploads)

    def _at(self, key: str) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Key": self.prefix + checked(key)}

    def _put(self, key: str, data: Bytes, **condition: str) -> str:
        body = bytes(data) if isinstance(data, memoryview) else data
        with self._told(key):
            answer = self._client.put_object(**self._at(key), Body=body, **condition)
            return str(answer["ETag"])

    def _put_if(self, key: str, data: Bytes, **condition: str) -> str:
        """A conditional write; its refusal is believed only if the object is not ours.

        boto3 sends a request again when the answer is lost, and the second is then refused
        because the first succeeded.
        """
        data = bytes(data)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._put(key, data, **condition)
            except (Conflict, Missing) as error:  # AWS answers If-Match on a missing key with 404
                with suppress(Missing):
                    now = self.get(key)
                    if now.data == data:
                        return now.etag
                raise Conflict(f"{self._name(key)}: another writer was first") from error
            except Busy:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    def _stream(self, key: str, chunk: int | None) -> tuple[str, Iterator[bytes]]:
        """The etag, and the content in pieces of `chunk` bytes (None: in one)."""
        answer = self._open(key)
        return str(answer["ETag"]), self._pieces(key, chunk, answer)

    def _open(self, key: str, **only: str) -> dict[str, Any]:
        with self._told(key):
            return dict(self._client.get_object(**self._at(key), **only))

    def _pieces(self, key: str, chunk: int | None, answer: dict[str, Any]) -> Iterator[bytes]:
        etag, offset, broken = answer["ETag"], 0, 0
        while True:
            try:
                with closing(answer["Body"]) as body, self._told(key):
                    while data := body.read(chunk):
                        offset, broken = offset + len(data), 0
                        yield data
                return
            except Unavailable:
                broken += 1
                if broken == ATTEMPTS:
                    raise
            answer = self._open(key, Range=f"bytes={offset}-", IfMatch=etag)

    def _upload(self, key: str, upload: str, pieces: Iterable[bytearray]) -> str:
        parts = []
        for number, piece in enumerate(pieces, 1):
            with self._told(key):
                answer = self._client.upload_part(
                    **self._at(key), UploadId=upload, PartNumber=number, Body=piece
                )
            sums = {name: value for name, value in answer.items() if name.startswith("Checksum")}
            parts.append({"PartNumber": number, "ETag": answer["ETag"], **sums})
        with self._told(key):
            answer = self._client.complete_multipart_upload(
                **self._at(key), UploadId=upload, MultipartUpload={"Parts": parts}
            )
            return str(answer["ETag"])

    def _abort(self, key: str, upload: str) -> None:
        with suppress(Ended), self._told(key):
            self._client.abort_multipart_upload(**self._at(key), UploadId=upload)

    def _pages(self, operation: str, field: str, prefix: str) -> Iterator[dict[str, Any]]:
        """What a paginated operation tells of all keys that begin with `prefix`."""
        whole = self.prefix + prefix
        pages = self._client.get_paginator(operation).paginate(
            Bucket=self.bucket, Prefix=whole, PaginationConfig={"PageSize": PAGE}
        )
        with self._told(prefix):
            for page in pages:
                # A server that overlooks the prefix must not make us touch another run.
                yield from (item for item in page.get(field, []) if item["Key"].startswith(whole))

    def _name(self, key: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{key}"

    def _told(self, key: str) -> AbstractContextManager[None]:
        return told(self._name(key), self.endpoint)


def regroup(pieces: Iterable[Bytes], size: int) -> Iterator[bytearray]:
    """The same bytes in pieces of exactly `size`, the last one shorter."""
    held = bytearray()
    for piece in pieces:
        rest = memoryview(piece)
        rest = rest.cast("B") if rest.nbytes else rest
        while rest.nbytes:
            taken = rest[: size - len(held)]
            held += taken
            rest = rest[len(taken) :]
            if len(held) == size:
                yield held
                held = bytearray()
    if held:
        yield held


def _misconfigured(found: str) -> Fault:
    found = re.sub(r"[^\s/]*@", "…@", found)  # may be a password
    rule = "boto3 needs a valid configuration"
    return Fault("the environment's AWS_* variables", found, rule, "correct them")
