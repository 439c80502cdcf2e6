"""All that a submission needs before anything is rented: spec, store, image, prices, plan."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from deploy import image as images
from deploy.book import read_book
from deploy.checkout import checkout
from deploy.command import say
from deploy.ends import ERROR, INVALID, NO_ACCESS, Stop
from deploy.environment import missing_credentials, pod_environment
from deploy.find import find
from deploy.plan import Catalogue, Plan, least_cuda, plan
from deploy.plan_shown import Facts
from deploy.rehearsal import last_rehearsal
from deploy.runpod_api import RunPod, Unanswered
from job.document import Damaged
from job.faults import Fault, InputError
from job.head import HeadDocument
from job.history import read_document
from job.read_spec import parse_spec, read_spec
from job.run_id import new_run_id
from job.spec import JobSpec
from job.store import Missing, Store, StoreError, open_store

NO_STORE = "not set: give --store s3://bucket/prefix, or EVENGRAD_STORE"
REPOSITORY = re.compile(r"[a-z0-9._-]+(:[0-9]+)?(/[a-z0-9._-]+)+")
"""A registry's repository, without a tag: docker.io/me/evengrad."""
REACHABLE = ("s3://",)
"""How the stores begin that a pod can write to."""
NO_IMAGE = "not built: give --repository, or --image by digest"


class Prepared(NamedTuple):
    """A submission that could begin."""

    spec: JobSpec
    plan: Plan
    facts: Facts
    rehearsed: bool
    """Whether the last local run of the same spec passed."""
    store: Store | None
    """None in a dry run that was not given one."""
    api: RunPod | None
    """None in a dry run without a key."""


class _Run(NamedTuple):
    """What a run is known by before its plan."""

    spec: JobSpec
    run_id: str
    store: str | None
    image: str | None
    registry: str | None


def prepare(
    *,
    spec: Path | None,
    resume: str | None,
    store: str | None,
    repository: str | None,
    image: str | None,
    build_arguments: Sequence[str],
    registry: str | None,
    env_file: Path | None,
    rehearsals: str,
    dry_run: bool,
    offline: bool,
    connect: Callable[[], RunPod],
) -> Prepared:
    """Look at everything; in a dry run, what is missing is said and not demanded.

    Raises Stop, InputError, ApiError, StoreError.
    """
    run = _named(spec, store, image, registry) if spec else _known(resume or "", store, image)
    opened = None if run.store is None else open_store(run.store)  # asks nothing yet
    where = None if offline else opened
    variables = pod_environment(run.spec, run.store or "", run.run_id, os.environ, env_file)
    missing = _missing(run, variables, repository)
    if missing and not dry_run:
        raise InputError(missing)
    _warn_of_endpoint(variables)
    api, catalogue, told = _catalogue(run.spec, connect, dry_run, offline)
    if api is not None:
        _keep_key_out(api, variables, env_file)
    arguments = images.build_arguments(build_arguments)
    reference = run.image or _image(
        spec, run.spec, repository, arguments, build=not dry_run, ask=not offline
    )
    rehearsal = last_rehearsal(open_store(rehearsals), run.spec)
    planned = plan(
        run.spec,
        reference,
        images.CUDA,
        catalogue,
        datetime.now(UTC),
        run_id=run.run_id,
        variables=variables,
        registry=run.registry,
    )
    facts = Facts(
        commit=str(checkout(images.ROOT)),
        store=run.store or NO_STORE,
        resumable=_resumable(where, planned),
        rehearsal=str(rehearsal or f"no finished run of this content in {rehearsals}"),
        catalogue=told,
        missing=tuple(map(str, missing)),
    )
    passed = rehearsal is not None and rehearsal.passed
    return Prepared(run.spec, planned, facts, passed, where, api)


def _named(path: Path, store: str | None, image: str | None, registry: str | None) -> _Run:
    spec = read_spec(path)
    if image is not None:
        images.check_pinned(image)
    store = store or os.environ.get("EVENGRAD_STORE") or None
    return _Run(spec, new_run_id(), store, image, registry)


def _known(run: str, store: str | None, image: str | None) -> _Run:
    """A run that was submitted before: its spec and its image are the ones it was begun with."""
    found = find(run, store)
    where = open_store(found.store)
    try:
        told = read_document(where, found.run, "pods.json")
        spec = parse_spec(
            where.get(f"{found.run}/spec.json").data.decode("utf-8", "replace"),
            f"{run}'s spec.json",
        )
        result = read_document(where, found.run, "result.json")
    except (Missing, Damaged) as fault:
        raise Stop(ERROR, f"run {run} cannot be gone on with: {fault}") from fault
    if result is not None:
        why = f"run {run} has finished ({result['reason']}); `python -m deploy.status {run}`"
        raise Stop(INVALID, why)
    if told is None:
        why = (
            f"run {run} was not submitted; `python -m job run SPEC --run-id {found.run_id}` goes on"
        )
        raise Stop(INVALID, why)
    book = read_book(told)
    if book is None:
        raise Stop(ERROR, f"{found.run}/pods.json is not one of this version of evengrad")
    return _Run(spec, found.run_id, found.store, image or book.image, book.registry)


def _missing(run: _Run, variables: dict[str, str], repository: str | None) -> list[Fault]:
    """What a submission needs and a dry run can do without."""
    faults = []
    if repository is not None and not REPOSITORY.fullmatch(repository):
        rule, remedy = "it must be a repository's name without a tag", "docker.io/you/evengrad"
        faults.append(Fault("--repository", repository, rule, f"such as {remedy}"))
    if run.store is None or not run.store.startswith(tuple(REACHABLE)):
        rule, remedy = "a pod reaches nothing but S3", "give --store s3://bucket/prefix"
        faults.append(Fault("--store", run.store or "nothing", rule, remedy))
    if run.image is None and repository is None:
        rule = "RunPod pulls the image from a registry"
        remedy = "give --repository docker.io/you/evengrad, or --image REPOSITORY@sha256:…"
        faults.append(Fault("--repository", "nothing", rule, remedy))
    if missing := missing_credentials(variables):
        rule = "the container needs them to write to S3"
        remedy = "name RunPod secrets in resources.secrets, or give --env-file"
        faults.append(Fault("the container's variables", f"no {', '.join(missing)}", rule, remedy))
    return faults


def _warn_of_endpoint(variables: dict[str, str]) -> None:
    """Say so where the container is sent to this machine for its store."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        host = urlsplit(variables.get(name, "")).hostname or ""
        if host == "localhost" or host.startswith("127."):
            say(f"warning: {name} is {host}, which in a pod is the pod itself; give another in "
                "--env-file")  # fmt: skip


def _catalogue(
    spec: JobSpec, connect: Callable[[], RunPod], dry_run: bool, offline: bool
) -> tuple[RunPod | None, Catalogue | None, str]:
    """The API, its prices, and where these come from."""
    if offline:
        return None, None, "prices unknown: the catalogue was not asked (--offline)"
    try:
        api = connect()
    except Stop as stop:
        if dry_run and stop.code == NO_ACCESS:
            return None, None, "prices unknown: no API key to ask the catalogue with"
        raise
    wanted = spec.resources
    if wanted is None:  # plan will say so
        return api, None, ""
    floor = least_cuda(wanted, images.CUDA)
    try:
        rows = {str(c): api.gpus(c, wanted.gpu_count, floor) for c in dict.fromkeys(wanted.cloud)}
    except Unanswered as unanswered:
        if not dry_run:
            raise
        return api, None, f"prices unknown: {unanswered.detail}"
    return api, rows, f"prices of RunPod's catalogue, {datetime.now(UTC):%H:%M:%S} UTC"


def _keep_key_out(api: RunPod, variables: dict[str, str], env_file: Path | None) -> None:
    """The account's key must not travel, under whichever name."""
    names = [name for name, value in variables.items() if api.key in value]
    if names:
        rule = "the account's API key never goes into a container"
        where = str(env_file or "the environment")
        raise InputError([Fault(where, ", ".join(names), rule, "remove it: the pod has its own")])


def _image(
    path: Path | None,
    spec: JobSpec,
    repository: str | None,
    arguments: Mapping[str, str],
    *,
    build: bool,
    ask: bool,
) -> str:
    """The image by digest, built and pushed unless the registry has this content."""
    if repository is None or path is None:
        return NO_IMAGE
    reference = images.tag(repository, path, spec, arguments)
    if not ask:
        return f"{reference} (the registry was not asked)"
    try:
        if (found := images.pinned(reference)) is not None:
            say(f"{reference} is in the registry: not built again")
            return found
    except Stop as stop:
        if not build:
            return f"{reference} ({stop})"
        if not isinstance(stop, images.Denied):
            raise
        say(f"{stop}; a first push may make it, so it is tried")
    if not build:
        return f"{reference} (to be built and pushed)"
    commit = checkout(images.ROOT)
    revision = (commit.commit or "unknown") + ("-dirty" if commit.dirty else "")
    return images.build_and_push(reference, path, revision, arguments)


def _resumable(store: Store | None, planned: Plan) -> str:
    """Whether there is something of this run to go on with."""
    if store is None:
        return "not asked"
    with suppress(StoreError, Damaged):
        head = HeadDocument(store, f"{planned.name}/{planned.run_id}", fenced=False).read()
        if head is not None and head.checkpoints:
            return f"goes on from step {head.checkpoints[0].step}"
        return "a new run"
    return "cannot be read now"
