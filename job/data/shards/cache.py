"""What is kept on the local disk: shards of S3, and arrays of Parquet files as .npy.

Every file is written beside its place, flushed and renamed, so that a file in its place is whole.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from job.env import cache_folder
from job.errors import Fault, InputError
from job.store import Conflict, StoreError, Unavailable, open_objects
from job.store.base import Entry

STREAMS = 4
"""Objects that are fetched at the same time."""
REMEDY = "free some space, or set EVENGRAD_CACHE to a folder on another disk"


class _Stopped(Exception):
    """The fetch is given up."""


# --- S3 -----------------------------------------------------------------------------------------


def fetched(url: str, suffixes: Collection[str]) -> dict[str, Path]:
    """The objects under s3://bucket/prefix/ whose names end so, as local files by their names.

    An object that is there is not fetched again; another version of it is another file. Raises
    InputError, and StoreError if S3 is out of reach.
    """
    remedy = "correct data.path, AWS_ENDPOINT_URL or the credentials in the environment"
    try:
        objects = open_objects(url, "$.data.path")
        versions = {
            entry: etag
            for entry, etag in objects.etags().items()
            if os.path.splitext(entry.key)[1] in suffixes
        }
        places = {entry: _place(objects.place, entry, versions[entry]) for entry in versions}
        _fetch(
            objects, {entry: path for entry, path in places.items() if not path.exists()}, versions
        )
    except Unavailable:
        raise
    except StoreError as error:
        found = str(error).removeprefix(f"{url}: ")
        raise InputError([Fault(url, found, "the objects must be readable", remedy)]) from None
    return {entry.key: path for entry, path in places.items()}


def _place(place: str, entry: Entry, etag: str) -> Path:
    """Where a version of an object is kept."""
    version = hashlib.sha256("\0".join((place, entry.key, etag, str(entry.size))).encode())
    return cache_folder(os.environ) / (version.hexdigest()[:32] + os.path.splitext(entry.key)[1])


def _fetch(objects: Any, places: Mapping[Entry, Path], versions: Mapping[Entry, str]) -> None:
    if not places:
        return
    wanted, folder = sum(entry.size for entry in places), next(iter(places.values())).parent
    folder.mkdir(parents=True, exist_ok=True)
    if wanted > (free := shutil.disk_usage(folder).free):
        rule = f"{objects.url} has {wanted / 1e9:.1f} GB to fetch"
        raise InputError([Fault(str(folder), f"{free / 1e9:.1f} GB free", rule, REMEDY)])
    stop = threading.Event()
    with ThreadPoolExecutor(STREAMS) as pool:
        tasks = [
            pool.submit(_fetch_one, objects, entry, path, versions[entry], stop)
            for entry, path in places.items()
        ]
        try:
            for task in wait(tasks, return_when=FIRST_EXCEPTION).done:
                task.result()
        except BaseException:  # a signal too
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch_one(objects: Any, entry: Entry, path: Path, etag: str, stop: threading.Event) -> None:
    """Fetch an object and check it; raises InputError, StoreError."""
    seen: list[str] = []
    while True:
        with _new_file(path) as file:
            if file is None:
                return  # another process has fetched it
            digest, size = hashlib.md5(usedforsecurity=False), 0
            found, pieces = objects.stream(entry.key)
            for piece in pieces:
                if stop.is_set():
                    raise _Stopped
                digest.update(piece)
                size += len(piece)
                file.write(piece)
            if found != etag or size != entry.size:
                raise Conflict(f"{objects.url}/{entry.key}: it was replaced while it was read")
            seen.append(digest.hexdigest())
            # An etag is the MD5 of an object, unless it came in parts or is encrypted with a key:
            # then two equal reads are the proof.
            if seen[-1] in (etag.strip('"'), *seen[:-1]) or "-" in etag:
                _rename(file, path)
                return
        if len(seen) > 1:
            found, rule = "other bytes at each read", f"its etag is {etag}"
            raise InputError(
                [Fault(f"{objects.url}/{entry.key}", found, rule, "look at the network")]
            )


# --- Parquet ------------------------------------------------------------------------------------


def kept_copy(source: Path, name: str, chunks: Iterable[NDArray[Any]], rows: int) -> Path:
    """The path of a .npy file that holds an array [rows, …], whose rows `chunks` yields.

    It is kept for this version of the source, by size and time of change. Raises InputError.
    """
    about = source.stat()
    version = f"{source.absolute()}\0{about.st_size}\0{about.st_mtime_ns}\0{name}"
    path = cache_folder(os.environ) / f"{hashlib.sha256(version.encode()).hexdigest()[:32]}.npy"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _new_file(path) as file:
        if file is not None:
            for k, chunk in enumerate(chunks):
                if k == 0:
                    shape = (rows, *chunk.shape[1:])
                    about_it = {"descr": chunk.dtype.str, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, about_it)
                file.write(np.ascontiguousarray(chunk).data)
            _rename(file, path)
    return path


# --- files --------------------------------------------------------------------------------------


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes] | None]:
    """An empty file beside `path` for this process alone; None if `path` exists by now.

    Raises InputError if the disk is full.
    """
    part = path.with_name(f"{path.name}.part")
    with part.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():  # then this may be its file, renamed by the process that had the lock
            part.unlink(missing_ok=True)
            yield None
            return
        file.truncate(0)
        try:
            yield file
        except BaseException as error:
            os.truncate(part, 0)  # not removed: another process may wait for its lock
            if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            where, found = str(path.parent), f"a full disk: {error.strerror}"
            raise InputError([Fault(where, found, "the data must fit on it", REMEDY)]) from None


def _rename(file: IO[bytes], path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    os.rename(file.name, path)
