"""`python -m deploy.doctor`: checks what a submission needs, before it costs anything."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from deploy.app import client, run_command
from deploy.exits import ERROR, INVALID, CommandError
from deploy.options import Json, KeyFile
from deploy.output import print_json
from job.show.format import counted
from job.show.printable import printable

if TYPE_CHECKING:
    from job.spec import JobSpec


class Check(NamedTuple):
    """One check and its outcome."""

    name: str
    ok: bool
    said: str
    """In one line; the key of `--json` too."""


def doctor(
    spec: Annotated[
        Path | None, typer.Argument(metavar="[SPEC]", help="A spec to check GPUs and secrets of.")
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
    registry: Annotated[
        str | None, typer.Option(help="Id of the registry's credentials at RunPod.")
    ] = None,
    env_file: Annotated[
        Path | None,
        typer.Option(help="The container's variables: the store is tried with its credentials."),
    ] = None,
    as_json: Json = False,
    api_key_file: KeyFile = None,
) -> None:
    """Check the key, the clock, the store as the job will use it, the secrets and the image.

    Creates nothing but one small object in the store, which it deletes.
    """
    url = store or os.environ.get("EVENGRAD_STORE")
    checks = [
        _check("key", lambda: _key(api_key_file)),
        _check("clock", lambda: _clock(api_key_file)),
        _check("store", lambda: _store(url, env_file, spec)),
        _check("image", lambda: _image(image, repository, spec, registry)),
        _check("secrets", lambda: _secrets(spec, api_key_file)),
    ]
    if spec is not None:
        checks.append(_check("GPUs", lambda: _gpus(spec, api_key_file)))
    if as_json:
        print_json({"ok": all(c.ok for c in checks), "checks": [c._asdict() for c in checks]})
    else:
        for name, ok, said in checks:
            print(f"{'ok  ' if ok else 'FAIL'}  {name:<7} {printable(said)}")
    if not all(check.ok for check in checks):
        raise typer.Exit(ERROR)


def _check(name: str, check: Callable[[], str]) -> Check:
    """What a check returns, or its failure in one line."""
    from deploy.runpod.errors import ApiError
    from job.errors import InputError
    from job.store import StoreError

    try:
        return Check(name, True, check())
    except (CommandError, ApiError, StoreError, InputError) as fault:
        return Check(name, False, str(fault).splitlines()[0])


def _key(key_file: str | None) -> str:
    with client(key_file) as api:
        pods = api.pods()
    return f"RunPod accepts it; the account has {counted(len(pods), 'pod')}"


def _clock(key_file: str | None) -> str:
    with client(key_file) as api:
        api.pods()
        skew = api.skew
    if skew is None:
        return "RunPod does not send its time; deadlines are by this machine's"
    return f"RunPod's is {skew.total_seconds():+.0f} s ahead; deadlines are by RunPod's"


# --- the store ------------------------------------------------------------------------------------


def _store(url: str | None, env_file: Path | None, spec: Path | None) -> str:
    """Put, get, list and delete, with the credentials that the container would get by value."""
    from deploy.plan.pod_env import PASSED_ON, read_env_file, unreachable_endpoints
    from job.errors import InputError
    from job.spec.read import read_spec
    from job.store import open_store

    if not url:
        raise CommandError(INVALID, "give --store s3://bucket/prefix, or EVENGRAD_STORE")
    if not url.startswith("s3://"):
        raise CommandError(INVALID, f"{url} is on this machine; a pod reaches nothing but s3://…")
    given = read_env_file(env_file) if env_file else {}
    passed_on = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    if faults := unreachable_endpoints(passed_on | given, os.environ.get("RUNPOD_API_URL", "")):
        raise InputError(faults)
    with _environment({k: v for k, v in given.items() if k.startswith("AWS_")}):
        encryption = read_spec(spec).checkpoint.encryption if spec else None
        store = open_store(url, encryption)
        prefix, data = f"doctor-{uuid.uuid4().hex}/", uuid.uuid4().bytes
        begun = time.monotonic()
        try:
            store.put(f"{prefix}object", data)
            if store.get(f"{prefix}object").data != data:
                raise CommandError(ERROR, f"{store.url} gives back other bytes than were put")
            if not any(entry.key == f"{prefix}object" for entry in store.list(prefix)):
                raise CommandError(ERROR, f"{store.url} does not list what was put")
            took = time.monotonic() - begun
            fenced = store.conditional(prefix)
        finally:
            store.delete(f"{prefix}object")
    whose = "the container's" if env_file else f"this machine's ({', '.join(PASSED_ON[:1])}…)"
    fence = "" if fenced else "; it IGNORES conditional writes: set checkpoint.unfenced or move"
    return f"put, get, list, delete with {whose} credentials, {took * 1e3:.0f} ms{fence}"


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process for the block."""
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


# --- image, secrets, GPUs -------------------------------------------------------------------------


def _image(
    image: str | None, repository: str | None, spec: Path | None, registry: str | None
) -> str:
    """Whether the image can be pulled by RunPod's hosts, and holds the spec."""
    from deploy.plan.image import check_image, check_pinned, spec_sha256
    from deploy.plan.registry import find_image

    if image is not None:
        warnings: list[str] = []
        specs = {spec_sha256(spec)} if spec is not None else ()
        check_image(check_pinned(image), specs, registry, warnings.append)
        holds = ", with this spec" if spec is not None else ""
        return "; ".join(warnings) or f"its registry has it, for linux/amd64, by digest{holds}"
    if repository is None:
        raise CommandError(INVALID, "give --image or --repository")
    find_image(f"{repository}:doctor-asks-for-what-is-not-there")
    return f"the registry of {repository} answers; `submit` builds and pushes"


def _secrets(spec: Path | None, key_file: str | None) -> str:
    """Whether RunPod has the secrets that the container is to get, as far as its API says."""
    from deploy.plan.pod_env import secret_names
    from deploy.runpod.errors import ApiError

    named = set(secret_names(_read(spec), os.environ).values())
    if not named:
        return "none is named in resources.secrets or EVENGRAD_SECRETS"
    with client(key_file) as api:
        try:
            known = api.secret_names()
        except ApiError as fault:  # not in the published contract, or not for this key
            return f"not checked, for RunPod does not list them: {fault}"
    if missing := sorted(named - known):
        why = f"RunPod has no secret {', '.join(missing)}; create it in RunPod's console"
        raise CommandError(ERROR, why)
    return f"RunPod has {', '.join(sorted(named))}"


def _gpus(spec: Path, key_file: str | None) -> str:
    from deploy.plan.image import CUDA
    from deploy.plan.plan import least_cuda, plan

    job = _read(spec)
    assert job is not None
    wanted = job.resources
    rows = {}
    if wanted is not None:  # else `plan` raises
        with client(key_file) as api:
            for cloud in wanted.cloud:
                rows[str(cloud)] = api.gpus(cloud, wanted.gpu_count, least_cuda(wanted, CUDA))
    planned = plan(job, "-", CUDA, rows, datetime.now(UTC), run_id="doctor", variables={})
    free = [c for c in planned.candidates if c.why_not is None and c.stock != "NONE"]
    if not free:
        raise CommandError(ERROR, "none of the spec's GPUs is free within its ceiling now")
    return f"{len(free)} of {len(planned.candidates)} candidates are free within the ceiling"


def _read(spec: Path | None) -> JobSpec | None:
    from job.spec.read import read_spec

    return None if spec is None else read_spec(spec)


if __name__ == "__main__":
    run_command("doctor", doctor)
