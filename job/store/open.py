"""The store at a URL, and single objects of S3."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from job.errors import Fault, InputError
from job.store.base import Encryption, Store

if TYPE_CHECKING:
    from job.store.s3 import S3Store

BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


def open_store(url: str | Path, encryption: Encryption | None = None) -> Store:
    """The store at `s3://bucket/prefix` or in a directory; raises InputError.

    Sends no request; a directory is made by the first write. encryption: of what is written to
    S3; a directory is as its disk is.
    """
    # Each is imported when used: a directory need not wait for boto3, nor S3 have POSIX locks.
    if isinstance(url, Path) or not ("://" in url or url in ("", ".", "..") or url[:3] == "s3:"):
        from job.store.directory import DirectoryStore

        return DirectoryStore(Path(url))
    bucket, prefix = _bucket_and_rest(url, "store", "a store is s3://bucket/prefix or a directory")
    from job.store.s3 import S3Store

    return S3Store(bucket, prefix, encryption)


def read_object(url: str, where: str) -> bytes:
    """The bytes of the object at `s3://bucket/key`; raises InputError, StoreError.

    where: the JSON path or file that names the object, for messages.
    """
    rule = "an object is s3://bucket/key"
    bucket, key = _bucket_and_rest(url, where, rule)
    from job.store.s3 import S3Store

    store = S3Store(bucket, "")
    try:
        return store.get(key).data
    except ValueError as error:
        raise InputError([Fault(where, url, f"{rule}; {error}", "correct the key")]) from None


def open_objects(url: str, where: str) -> S3Store:
    """The objects under `s3://bucket/prefix/`; sends no request. Raises InputError.

    where: the JSON path that names the folder, for messages.
    """
    bucket, prefix = _bucket_and_rest(url, where, "a folder is s3://bucket/prefix/")
    from job.store.s3 import S3Store

    return S3Store(bucket, prefix)


def _bucket_and_rest(url: str, where: str, rule: str) -> tuple[str, str]:
    """Bucket and the rest of the path in an S3 URL; raises InputError, without any secret."""
    scheme, separator, rest = url.partition("://")
    bucket, _, path = rest.partition("/")
    usable = path.isprintable() and "?" not in path
    if scheme == "s3" and BUCKET.fullmatch(bucket) and usable:
        return bucket, path
    secret = any(sign in rest for sign in "@?#")
    found = f"{scheme}{separator}…" if secret else url
    remedy = "write it so; credentials and the endpoint come from AWS_* variables"
    raise InputError([Fault(where, found, rule, remedy)])
