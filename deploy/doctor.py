"""`python -m deploy.doctor`: whether all that a submission needs is there, before it costs."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from deploy.command import Json, KeyFile, client, out, serve
from deploy.ends import ERROR, INVALID, OK, Stop
from job.figures import counted

if TYPE_CHECKING:
    from collections.abc import Iterator


class Check(NamedTuple):
    """One thing that was looked at."""

    name: str
    ok: bool
    said: str


def doctor(
    spec: Annotated[
        Path | None, typer.Argument(metavar="[SPEC]", help="A spec to check the GPUs of.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="s3://bucket/prefix; default: EVENGRAD_STORE.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="An image, REPOSITORY@sha256:…, to ask its registry for.")
    ] = None,
    repository: Annotated[
        str | None, typer.Option(envvar="EVENGRAD_REPOSITORY", help="Where images are pushed.")
    ] = None,
    env_file: Annotated[
        Path | None,
        typer.Option(help="The container's variables: the store is tried with its credentials."),
    ] = None,
    as_json: Json = False,
    api_key_file: KeyFile = None,
) -> None:
    """Check the key and its rights, the clock, the store as the job will use it, and the image.

    Creates nothing but one small object in the store, which it deletes.
    """
    url = store or os.environ.get("EVENGRAD_STORE")
    reference = image or repository
    checks = [
        _checked("key", lambda: _key(api_key_file)),
        _checked("clock", lambda: _clock(api_key_file)),
        _checked("store", lambda: _store(url, env_file)),
        _checked("image", lambda: _image(image, repository)),
    ]
    if reference is None:
        checks[3] = Check("image", False, "give --image or --repository")
    if spec is not None:
        checks.append(_checked("GPUs", lambda: _gpus(spec, api_key_file)))
    if as_json:
        out({"ok": all(c.ok for c in checks), "checks": [c._asdict() for c in checks]})
    else:
        for name, ok, said in checks:
            print(f"{'ok  ' if ok else 'FAIL'}  {name:<6} {said}")
    if not all(check.ok for check in checks):
        raise typer.Exit(ERROR)


def _checked(name: str, look: Callable[[], str]) -> Check:
    """What a look says; its failure in one line."""
    from deploy.runpod_api import ApiError
    from job.faults import InputError
    from job.store import StoreError

    try:
        return Check(name, True, look())
    except (Stop, ApiError, StoreError, InputError) as fault:
        return Check(name, False, str(fault).splitlines()[0])


def _key(key_file: str | None) -> str:
    with client(key_file) as api:
        pods = api.pods()
    return f"RunPod takes it; the account has {counted(len(pods), 'pod')}"


def _clock(key_file: str | None) -> str:
    with client(key_file) as api:
        api.pods()
        skew = api.skew
    if skew is None:
        return "RunPod does not tell its time; deadlines are by this machine's"
    return f"RunPod's is {skew.total_seconds():+.0f} s ahead; deadlines are by RunPod's"


def _store(url: str | None, env_file: Path | None) -> str:
    """Put, get, list and delete, with the credentials that the container would get by value."""
    from deploy.environment import PASSED_ON, read_env_file
    from job.store import open_store

    if not url:
        raise Stop(INVALID, "give --store s3://bucket/prefix, or EVENGRAD_STORE")
    if not url.startswith("s3://"):
        raise Stop(INVALID, f"{url} is on this machine; a pod reaches nothing but s3://…")
    given = read_env_file(env_file) if env_file else {}
    with _environment({k: v for k, v in given.items() if k.startswith("AWS_")}):
        store = open_store(url)
        prefix, data = f"doctor-{uuid.uuid4().hex}/", uuid.uuid4().bytes
        begun = time.monotonic()
        try:
            store.put(f"{prefix}object", data)
            if store.get(f"{prefix}object").data != data:
                raise Stop(ERROR, f"{store.url} gives back other bytes than were put")
            if not any(entry.key == f"{prefix}object" for entry in store.list(prefix)):
                raise Stop(ERROR, f"{store.url} does not list what was put")
            took = time.monotonic() - begun
            fenced = store.conditional(prefix)
        finally:
            store.delete(f"{prefix}object")
    whose = "the container's" if env_file else f"this machine's ({', '.join(PASSED_ON[:1])}…)"
    fence = "" if fenced else "; it IGNORES conditional writes: set checkpoint.unfenced or move"
    return f"put, get, list, delete with {whose} credentials, {took * 1e3:.0f} ms{fence}"


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables of this process, for as long as the block runs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                with suppress(KeyError):
                    del os.environ[name]
            else:
                os.environ[name] = value


def _image(image: str | None, repository: str | None) -> str:
    from deploy.image import check_pinned, pinned

    if image is not None:
        check_pinned(image)
        if pinned(image) is None:
            raise Stop(ERROR, f"its registry does not have {image}")
        return "its registry has it, for linux/amd64, by digest"
    pinned(f"{repository}:doctor-asks-for-what-is-not-there")
    return f"the registry of {repository} answers; `submit` builds and pushes"


def _gpus(spec: Path, key_file: str | None) -> str:
    from deploy.image import CUDA
    from deploy.plan import least_cuda, plan
    from job.read_spec import read_spec

    job = read_spec(spec)
    wanted = job.resources
    rows = {}
    if wanted is not None:  # else plan says so
        with client(key_file) as api:
            for cloud in wanted.cloud:
                rows[str(cloud)] = api.gpus(cloud, wanted.gpu_count, least_cuda(wanted, CUDA))
    planned = plan(job, "-", CUDA, rows, datetime.now(UTC), run_id="doctor", variables={})
    free = [c for c in planned.candidates if c.why_not is None and c.stock != "NONE"]
    if not free:
        raise Stop(ERROR, "none of the spec's GPUs is free within its ceiling now")
    return f"{len(free)} of {len(planned.candidates)} candidates are free within the ceiling"


if __name__ == "__main__":
    serve("doctor", doctor, OK, ERROR, INVALID)
