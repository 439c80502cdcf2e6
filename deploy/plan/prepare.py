"""What a submission needs before anything is rented: spec, store, image, prices, plan."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from deploy.exits import ERROR, INVALID, NO_ACCESS, CommandError
from deploy.output import log_line
from deploy.plan import image as images
from deploy.plan.earlier_run import unreadable_runs
from deploy.plan.git import checkout
from deploy.plan.plan import Catalogue, Plan, least_cuda, plan
from deploy.plan.pod_env import (
    left_behind,
    missing_credentials,
    pod_environment,
    unreachable_endpoints,
)
from deploy.plan.registry import Denied, find_image
from deploy.plan.rehearsal import last_rehearsal
from deploy.plan.render import PlanContext
from deploy.plan.submission import Submission
from deploy.runpod.client import RunPod
from deploy.runpod.errors import Unanswered
from deploy.runs.locate import locate
from job.errors import Fault, InputError
from job.record.document import Damaged
from job.record.layout import new_run_id
from job.record.pods import PodsRecord
from job.record.result import Result
from job.record.run_index import RunIndexStore
from job.spec import JobSpec
from job.spec.read import read_spec
from job.spec.stored import parse_stored
from job.store import Missing, Store, StoreError, open_store

NO_STORE = "not set: give --store s3://bucket/prefix, or EVENGRAD_STORE"
REPOSITORY = re.compile(r"[a-z0-9._-]+(:[0-9]+)?(/[a-z0-9._-]+)+")
"""A registry's repository, without a tag: docker.io/me/evengrad."""
REACHABLE = ("s3://",)
"""How the URLs of stores begin that a pod can write to."""
NO_IMAGE = "not built: give --repository, or --image by digest"

Connect = Callable[[], RunPod]
"""Returns a client of RunPod's API; raises CommandError without a key."""


class Prepared(NamedTuple):
    """A submission that can begin."""

    spec: JobSpec
    plan: Plan
    context: PlanContext
    spec_file: str | None
    """SHA-256 of the spec's file, in hex; None for a run that is resumed."""
    rehearsed: bool
    """True if the last local run of the same spec passed."""
    store: Store | None
    """None only in a dry run."""
    api: RunPod | None
    """None only in a dry run."""


class _Run(NamedTuple):
    """A run before its plan."""

    spec: JobSpec
    run_id: str
    store: str | None
    image: str | None
    registry: str | None
    specs: frozenset[str]
    """SHA-256 of the files of which the image must hold one; empty: any."""


class _Image(NamedTuple):
    """An image, or in a dry run why there is none yet."""

    reference: str
    fault: str | None = None
    """Why no pod could start with it."""


def prepare(submission: Submission, connect: Connect) -> Prepared:
    """Check everything and plan; in a dry run what is missing is listed, not demanded.

    Raises CommandError, InputError, ApiError, StoreError; the connection to RunPod is then closed.
    """
    with ExitStack() as closing:
        made = _prepare(submission, lambda: closing.enter_context(connect()))
        closing.pop_all()
        return made


def _prepare(submission: Submission, connect: Connect) -> Prepared:
    run = _resumed_run(submission) if submission.spec is None else _new_run(submission)
    encryption = run.spec.checkpoint.encryption
    opened = None if run.store is None else open_store(run.store, encryption)  # asks nothing yet
    store = None if submission.offline else opened
    file = submission.env_file
    variables = pod_environment(run.spec, run.store or "", run.run_id, os.environ, file)
    missing = _missing(run, variables, submission.repository)
    folder = None if submission.spec is None else submission.spec.resolve().parent
    missing += unreadable_runs(run.spec, folder, run.store, asks=not submission.offline)
    if missing and not submission.dry_run:
        raise InputError(missing)
    if names := left_behind(os.environ, variables):
        log_line(
            f"warning: {', '.join(names)}: set here, and the pod does not get it; if the store "
            "needs it, give it in --env-file or as a secret"
        )
    api, catalogue, source = _catalogue(run.spec, submission, connect)
    if api is not None:
        _keep_key_out(api, variables, file)
    image = _image(run, submission)
    rehearsal = last_rehearsal(open_store(submission.rehearsals), run.spec)
    planned = plan(
        run.spec,
        image.reference,
        images.CUDA,
        catalogue,
        datetime.now(UTC),
        run_id=run.run_id,
        variables=variables,
        registry=run.registry,
    )
    context = PlanContext(
        commit=str(checkout(images.ROOT)),
        store=run.store or NO_STORE,
        resumable=_resumable(store, planned),
        rehearsal=str(rehearsal or f"no finished run of this content in {submission.rehearsals}"),
        catalogue=source,
        missing=(*map(str, missing), *([image.fault] if image.fault else [])),
    )
    passed = rehearsal is not None and rehearsal.passed
    spec_file = None if submission.spec is None else images.spec_sha256(submission.spec)
    return Prepared(run.spec, planned, context, spec_file, passed, store, api)


# --- the run ------------------------------------------------------------------------------------


def _new_run(submission: Submission) -> _Run:
    assert submission.spec is not None
    spec = read_spec(submission.spec)
    if submission.image is not None:
        images.check_pinned(submission.image)
    store = submission.store or os.environ.get("EVENGRAD_STORE") or None
    specs = frozenset({images.spec_sha256(submission.spec)})
    return _Run(spec, new_run_id(), store, submission.image, submission.registry, specs)


def _resumed_run(submission: Submission) -> _Run:
    """A run that was submitted before, with the spec and the image that it began with."""
    name = submission.resume or ""
    run = locate(name, submission.store)
    store = open_store(run.store)
    try:
        record = PodsRecord.read(store, run.run)
        spec_text = store.get(f"{run.run}/spec.json").data.decode("utf-8", "replace")
        spec = parse_stored(spec_text, f"{name}'s spec.json")
        result = Result.read(store, run.run)
    except (Missing, Damaged) as fault:
        raise CommandError(ERROR, f"run {name} cannot be resumed: {fault}") from fault
    if result is not None:
        why = f"run {name} has finished ({result.reason}); `python -m deploy.status {name}`"
        raise CommandError(INVALID, why)
    if record is None:
        remedy = f"`python -m job run SPEC --run-id {run.run_id}` resumes it"
        raise CommandError(INVALID, f"run {name} was not submitted; {remedy}")
    image, registry = submission.image or record.image, submission.registry or record.registry
    specs = frozenset[str]()
    if image != record.image and record.spec_file is not None:
        in_store = hashlib.sha256(spec_text.encode()).hexdigest()  # which `fetch` may have brought
        specs = frozenset({record.spec_file, in_store})
    return _Run(spec, run.run_id, run.store, images.check_pinned(image), registry, specs)


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
    return faults + unreachable_endpoints(variables, os.environ.get("RUNPOD_API_URL", ""))


# --- prices and the key ---------------------------------------------------------------------------


def _catalogue(
    spec: JobSpec, submission: Submission, connect: Connect
) -> tuple[RunPod | None, Catalogue | None, str]:
    """The API, its prices, and where these come from."""
    if submission.offline:
        return None, None, "prices unknown: the catalogue was not asked (--offline)"
    try:
        api = connect()
    except CommandError as error:
        if submission.dry_run and error.code == NO_ACCESS:
            return None, None, f"prices unknown: {error}"
        raise
    wanted = spec.resources
    if wanted is None:  # `plan` raises
        return api, None, ""
    floor = least_cuda(wanted, images.CUDA)
    try:
        rows = {str(c): api.gpus(c, wanted.gpu_count, floor) for c in dict.fromkeys(wanted.cloud)}
    except Unanswered as unanswered:
        if not submission.dry_run:
            raise
        return api, None, f"prices unknown: {unanswered.detail}"
    return api, rows, f"prices of RunPod's catalogue, {datetime.now(UTC):%H:%M:%S} UTC"


def _keep_key_out(api: RunPod, variables: dict[str, str], env_file: Path | None) -> None:
    """Raises InputError if the account's key is in a variable, whatever its name."""
    names = [name for name, value in variables.items() if api.key in value]
    if names:
        rule = "the account's API key never goes into a container"
        where = str(env_file or "the environment")
        raise InputError([Fault(where, ", ".join(names), rule, "remove it: the pod has its own")])


# --- the image ------------------------------------------------------------------------------------


def _image(run: _Run, submission: Submission) -> _Image:
    """The image by digest, built unless the registry has this content, and checked there."""
    arguments = images.build_arguments(submission.build_arg or [])
    reference = run.image
    if reference is None:
        if submission.repository is None or submission.spec is None:
            return _Image(NO_IMAGE)
        tag = images.content_tag(submission.repository, submission.spec, run.spec, arguments)
        if submission.offline:
            return _Image(f"{tag} (the registry was not asked)")
        try:
            reference = _in_registry(tag)
        except CommandError as error:
            if submission.dry_run:
                return _Image(f"{tag} ({error})")
            if not isinstance(error, Denied):
                raise
            log_line(f"{error}; a first push may make it, so it is tried")
        if reference is None and submission.dry_run:
            return _Image(f"{tag} (to be built and pushed)")
        if reference is None:
            revision = checkout(images.ROOT).revision
            reference = images.build_and_push(tag, submission.spec, revision, arguments)
    if submission.offline:
        return _Image(reference)
    try:
        images.check_image(reference, run.specs, run.registry, log_line)
    except CommandError as error:
        if not submission.dry_run:
            raise
        return _Image(reference, str(error))
    return _Image(reference)


def _in_registry(tag: str) -> str | None:
    """The tag's image by digest, if the registry has it."""
    image = find_image(tag)
    if image is None:
        return None
    log_line(f"{tag} is in the registry: not built again")
    return image.reference


def _resumable(store: Store | None, planned: Plan) -> str:
    """Which checkpoint the run would resume from."""
    if store is None:
        return "not asked"
    with suppress(StoreError, Damaged):
        index = RunIndexStore(store, f"{planned.name}/{planned.run_id}", fenced=False).read()
        if index is not None and index.checkpoints:
            return f"resumes from step {index.checkpoints[0].step}"
        return "a new run"
    return "cannot be read now"
