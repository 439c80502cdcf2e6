"""The store in a bucket of S3, or of a server that speaks its protocol.

boto3 sends a CRC32 with every write, so that a server stores no damaged bytes. A server that
refuses it needs AWS_REQUEST_CHECKSUM_CALCULATION=when_required, and then nothing notices.
Objects are deleted one at a time, as some servers lack DeleteObjects.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import chain
from typing import Any

from job.store.base import (
    CHUNK,
    PART,
    AccessLost,
    Bytes,
    Conflict,
    Encryption,
    Entry,
    Forbidden,
    Missing,
    Store,
    Stored,
    StoreError,
    Unavailable,
    WrongServer,
    checked,
)
from job.store.s3_client import ATTEMPTS, Connection
from job.store.s3_errors import CHECKSUMS, Busy, Ended, Full, Untrusted, not_s3, translate_errors

PAGE = 1000
"""Keys listed by one request."""
PARTS_OF_A_PUT = ("create_multipart_upload", "upload_part", "complete_multipart_upload")
"""Operations that need the same right as put_object."""


class S3Store(Store):
    """Objects of one bucket under one prefix; safe to use from several threads.

    Raises InputError if the AWS_* variables cannot be meant. encryption: how the server is asked
    to encrypt what is written; None leaves it to the bucket.
    """

    def __init__(self, bucket: str, prefix: str, encryption: Encryption | None = None) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/".lstrip("/")
        self.url = f"s3://{bucket}/{self.prefix}".rstrip("/")
        self._connection = Connection(bucket)
        self.endpoint = self._connection.endpoint
        self.place = f"{self.endpoint} {self.url}"
        self._encryption = _headers(encryption)
        self._granted: set[str] = set()
        """Operations that have succeeded once: their refusal is an outage from then on."""

    def get(self, key: str) -> Stored:
        """The whole object; raises Missing."""
        etag, pieces = self.stream(key, None)
        return Stored(b"".join(pieces), etag)

    def read(self, key: str, chunk: int = CHUNK) -> Iterator[bytes]:
        """The object in pieces; a read that breaks goes on from where it broke."""
        yield from self.stream(key, chunk)[1]

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
        with self._calling("create_multipart_upload", key) as (client, at):
            upload = client.create_multipart_upload(**at, **self._encryption)["UploadId"]
        try:
            return self._upload(key, upload, chain([first], pieces))
        except BaseException:  # also when interrupted: pieces left behind cost money for ever
            with suppress(StoreError):
                self._abort(key, upload)
            raise

    def list(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        """All objects whose key begins with `prefix` and comes after `after`, sorted by key."""
        yield from self.etags(prefix, after)

    def etags(self, prefix: str = "", after: str = "") -> dict[Entry, str]:
        """The etags of all objects whose key begins with `prefix`, sorted by key.

        after: only those of keys that come after it.
        """
        start = {"StartAfter": self.prefix + after} if after else {}
        found = {
            Entry(item["Key"].removeprefix(self.prefix), item["Size"]): item.get("ETag", "")
            for item in self._pages("list_objects_v2", "Contents", prefix, **start)
            # A key that ends with a slash is a folder made by hand in a web console.
            if not item["Key"].endswith("/") and item["Key"] > self.prefix + after
        }
        # Not every server sorts as AWS does: SeaweedFS lists a/x before a-b.
        return dict(sorted(found.items()))

    def delete(self, key: str) -> None:
        """Remove the object, if it exists."""
        with suppress(Missing), self._calling("delete_object", key) as (client, at):
            client.delete_object(**at)

    def abort_uploads(self, prefix: str = "") -> int:
        """Abort the multipart uploads under `prefix`; returns how many there were."""
        uploads = [*self._pages("list_multipart_uploads", "Uploads", prefix)]
        for upload in uploads:
            self._abort(upload["Key"].removeprefix(self.prefix), upload["UploadId"])
        return len(uploads)

    def _put(self, key: str, data: Bytes, **condition: str) -> str:
        body = bytes(data) if isinstance(data, memoryview) else data
        try:
            with self._calling("put_object", key) as (client, at):
                answer = client.put_object(**at, Body=body, **condition, **self._encryption)
                return str(answer["ETag"])
        except (Missing, Conflict, Unavailable):
            raise
        except StoreError as refusal:
            if "put_object" not in self._granted and self._refuses_checksums(key):
                raise StoreError(
                    f"{self._name(key)}: the server takes writes, but not with a checksum; set "
                    f"{CHECKSUMS}, and leave checkpoint.verify on, as nothing else then notices "
                    "bytes damaged on their way"
                ) from refusal
            raise

    def _refuses_checksums(self, key: str) -> bool:
        """True if the server refuses a write with a checksum and takes the same one without.

        Tried on a scratch object beside `key`.
        """
        scratch = f"{key.rpartition('/')[0]}/probe-{uuid.uuid4().hex}".lstrip("/")
        if not self._connection.sends_checksums:
            return False
        return not self._takes(scratch, self._connection.client()) and self._takes(
            scratch, self._connection.unchecked()
        )

    def _takes(self, key: str, client: Any) -> bool:
        """True if the server takes a write from this client; the object is removed again."""
        at = self._at(key)
        with suppress(StoreError), self._translating(key):
            client.put_object(**at, Body=b"probe", **self._encryption)["ETag"]
            with suppress(StoreError):
                self.delete(key)
            return True
        return False

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

    def stream(self, key: str, chunk: int | None = CHUNK) -> tuple[str, Iterator[bytes]]:
        """The etag, and the content in pieces of `chunk` bytes (None: in one)."""
        answer = self._open(key)
        return str(answer["ETag"]), self._pieces(key, chunk, answer)

    def _open(self, key: str, **only: str) -> dict[str, Any]:
        with self._calling("get_object", key) as (client, at):
            answer = dict(client.get_object(**at, **only))
            if "ETag" not in answer:
                answer["Body"].close()
                raise WrongServer(f"{self._name(key)}: {not_s3(self.endpoint, 'no ETag')}")
            return answer

    def _pieces(self, key: str, chunk: int | None, answer: dict[str, Any]) -> Iterator[bytes]:
        etag, offset, broken = answer["ETag"], 0, 0
        while True:
            try:
                with closing(answer["Body"]) as body, self._translating(key):
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
            with self._calling("upload_part", key) as (client, at):
                answer = client.upload_part(**at, UploadId=upload, PartNumber=number, Body=piece)
            sums = {name: value for name, value in answer.items() if name.startswith("Checksum")}
            parts.append({"PartNumber": number, "ETag": answer["ETag"], **sums})
        with self._calling("complete_multipart_upload", key) as (client, at):
            answer = client.complete_multipart_upload(
                **at, UploadId=upload, MultipartUpload={"Parts": parts}
            )
            return str(answer["ETag"])

    def _abort(self, key: str, upload: str) -> None:
        with suppress(Ended), self._calling("abort_multipart_upload", key) as (client, at):
            client.abort_multipart_upload(**at, UploadId=upload)

    def _pages(
        self, operation: str, field: str, prefix: str, **more: str
    ) -> Iterator[dict[str, Any]]:
        """The entries of a paginated answer for all keys that begin with `prefix`."""
        whole = self.prefix + prefix
        with self._calling(operation, prefix, listing=True) as (client, _):
            pages = client.get_paginator(operation).paginate(
                Bucket=self.bucket, Prefix=whole, PaginationConfig={"PageSize": PAGE}, **more
            )
            for page in pages:
                if "IsTruncated" not in page:  # any XML passes for an empty list
                    raise WrongServer(f"{self._name(prefix)}: {not_s3(self.endpoint, 'no list')}")
                # A server that overlooks the prefix must not make us touch another run.
                yield from (item for item in page.get(field, []) if item["Key"].startswith(whole))

    @contextmanager
    def _calling(
        self, operation: str, key: str, listing: bool = False
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """boto3's client, and bucket and key for it; raises StoreError.

        A refusal has the credentials read again before the next try. If the operation has worked
        before, it counts as an outage: keys are replaced and session tokens expire.
        """
        at = {} if listing else self._at(key)
        right = "put_object" if operation in PARTS_OF_A_PUT else operation
        client = None
        try:
            with self._translating(key):
                client = self._connection.client()
                yield client, at
        except (Missing, Conflict):
            self._granted.add(right)
            raise
        except (Forbidden, WrongServer) as refusal:
            self._connection.forget(client)
            if right not in self._granted:
                raise
            raise _outage(refusal) from refusal
        self._granted.add(right)

    def _at(self, key: str) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Key": self.prefix + checked(key)}

    def _translating(self, key: str) -> Any:
        return translate_errors(self._name(key), self.endpoint, self._connection.secrets)

    def _name(self, key: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{key}"


def _outage(refusal: StoreError) -> Unavailable:
    """The outage for a refusal of what had worked before."""
    if isinstance(refusal, WrongServer | Full | Untrusted):
        return Unavailable(f"{refusal}; it worked before")
    return AccessLost(
        f"{refusal}; it worked before: were the keys replaced, or has a session token expired? "
        "New ones are read before each try, from where boto3 finds credentials"
    )


def _headers(encryption: Encryption | None) -> dict[str, str]:
    """The arguments of a write that ask for this encryption."""
    if encryption is None:
        return {}
    if encryption.kind == "sse-s3":
        return {"ServerSideEncryption": "AES256"}
    key = {"SSEKMSKeyId": encryption.key_id} if encryption.key_id else {}
    return {"ServerSideEncryption": encryption.kind, **key}


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
