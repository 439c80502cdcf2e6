"""The image with the spec baked in: its tag names its content, so that nothing is built twice.

Docker's own client builds and pushes, and shows its progress. RunPod is given a digest, never a
tag: hosts cache by tag.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from deploy.exits import ERROR, INVALID, CommandError
from deploy.output import Log
from deploy.plan.registry import Denied, Limited, RegistryImage, find_image
from job.errors import Fault, InputError
from job.spec import JobSpec, files_of

ROOT = Path(__file__).resolve().parents[2]
"""The build's context: a checkout of evengrad."""
CUDA = "13.0"
"""CUDA version of the image, as its label says; the host's driver must have it."""
SEEN = (".json", ".py", ".csv", ".csv.gz", ".parquet", ".npz", ".safetensors", "requirements.txt")
"""Endings that .dockerignore lets through at the top of the checkout."""
CODE = ("*.py", "assets/*")
"""Files of job/, at any depth, that the image holds."""
PINNED = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")
SPEC_LABEL = "evengrad.spec.sha256"
"""The image's label with the SHA-256 of its spec's file, in hex."""
OWN_ARGUMENTS = {"SPEC", "SPEC_SHA256", "REVISION", "CUDA_VERSION"}
"""Build arguments that describe the image; no user sets them."""
DELEGATING = ".amazonaws.com"
"""Registries that RunPod may pull from without a credential's id, by a delegation."""


def check_pinned(reference: str) -> str:
    """The reference; raises InputError unless it names a digest."""
    if not PINNED.fullmatch(reference):
        rule = "an image must be named by digest, REPOSITORY@sha256:…: hosts cache by tag"
        remedy = "`docker image inspect` shows RepoDigests"
        raise InputError([Fault("--image", reference, rule, remedy)])
    return reference


def base_image() -> dict[str, str]:
    """The build argument with the base image by digest; empty if the checkout names none."""
    path = ROOT / "docker" / "base-images.env"
    lines = path.read_text().splitlines() if path.is_file() else []
    pairs = (line.partition("=") for line in lines)
    return {name: value for name, _, value in pairs if name == "PYTHON"}


def build_arguments(given: Sequence[str]) -> dict[str, str]:
    """From `NAME=VALUE` each, over the base image; raises InputError if one is not a user's."""
    if not given:
        return base_image()
    declared = re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.M)
    known = sorted({*declared} - OWN_ARGUMENTS)
    pairs = [argument.partition("=") for argument in given]
    rule = f"the Dockerfile takes NAME=VALUE for {', '.join(known)}"
    faults = [
        Fault("--build-arg", name, rule, "correct or remove it")
        for name, sign, _ in pairs
        if not sign or name not in known
    ]
    if faults:
        raise InputError(faults)
    return base_image() | {name: value for name, _, value in pairs}


def content_tag(
    repository: str, spec_path: Path, spec: JobSpec, arguments: Mapping[str, str] | None = None
) -> str:
    """`REPOSITORY:NAME-CONTENT`; CONTENT hashes every file and argument that enters the image.

    Raises InputError for a spec or data outside the checkout, which no build can reach.
    """
    digest = hashlib.sha256()
    for path in _files(spec_path, spec):
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    for name, value in sorted((arguments or {}).items()):
        digest.update(f"{name}={value}\0".encode())
    return f"{repository}:{spec.name}-{digest.hexdigest()[:16]}"


def _files(spec_path: Path, spec: JobSpec) -> Iterator[Path]:
    """The files that enter the image; raises InputError."""
    entering = [spec_path.resolve()]
    for data in spec.files.values():
        if not data.startswith("s3://"):
            entering.append((spec_path.resolve().parent / data).resolve())
    for section in spec.own_code.values():
        entering += [(spec_path.resolve().parent / own).resolve() for own in files_of(section)]
    for path in entering:
        if path.parent != ROOT and ROOT / "docker" not in path.parents:
            rule = f"what is baked must lie in {ROOT} or its docker/: the build sees nothing else"
            raise InputError([Fault(str(path), "another folder", rule, "move it there")])
        if path.parent == ROOT and not path.name.endswith(SEEN):
            rule = f"at the checkout's top the build sees {', '.join(SEEN)} alone"
            raise InputError([Fault(path.name, "another ending", rule, "put it into docker/")])
    fixed = [ROOT / name for name in ("Dockerfile", "torch.lock", "requirements.lock")]
    code = [path for kind in CODE for path in (ROOT / "job").rglob(kind)]
    for path in sorted({*entering, *fixed, *code}):
        if path.is_dir():
            rule, remedy = "an image holds files", "put it in S3 and write s3://bucket/prefix/"
            raise InputError([Fault(str(path), "a folder of shards", rule, remedy)])
        if not path.is_file():
            rule = "it enters the image, which is built from a checkout of evengrad"
            remedy = "put it there, or name an image by --image"
            raise InputError([Fault(str(path), "no such file", rule, remedy)])
        yield path


def spec_sha256(path: Path) -> str:
    """SHA-256 of a spec's file in hex, as the image's label has it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_image(
    reference: str, specs: Collection[str], registry_id: str | None, log: Log
) -> RegistryImage | None:
    """Ask the registry for an image before anything is rented for it.

    It must exist, be for linux/amd64, be open to RunPod's hosts, and hold one of the specs. specs:
    SHA-256 of their files, in hex; none: any. registry_id: the credentials at RunPod with which the
    hosts pull; None: they pull without. None is returned, and the reason logged, if the registry
    cannot be asked from here but RunPod's hosts may be able to pull all the same. Raises
    CommandError.
    """
    hosts_log_in = registry_id is not None or DELEGATING in reference.partition("/")[0]
    try:
        image = find_image(reference) if hosts_log_in else _as_anybody_sees_it(reference)
    except (Limited, Denied) as refusal:
        if isinstance(refusal, Denied) and not hosts_log_in:
            raise
        log(f"warning: the image is not checked: {refusal}")
        return None
    if image is None:
        raise CommandError(ERROR, f"the registry does not have {reference}; push it, or correct it")
    if specs:
        _check_label(image, reference, specs)
    return image


def _as_anybody_sees_it(reference: str) -> RegistryImage | None:
    """The image, looked up without credentials."""
    try:
        return find_image(reference, anonymous=True)
    except Denied as denied:
        if find_image(reference) is None:  # raises Denied, if this user may not look either
            return None
        why = f"{reference} is private, and RunPod's hosts pull it without credentials"
        raise CommandError(
            INVALID, f"{why}; store them at RunPod and give their id with --registry"
        ) from denied


def _check_label(image: RegistryImage, reference: str, specs: Collection[str]) -> None:
    """Raises CommandError unless the image's label is the SHA-256 of a spec's file."""
    label = image.labels.get(SPEC_LABEL, "")
    if label in specs:
        return
    holds = f"holds another spec, {label[:12]}…" if len(label) == 64 else "does not say its spec"
    wanted = " or ".join(f"{digest[:12]}…" for digest in sorted(specs))
    why = (
        f"{reference} {holds}; its label {SPEC_LABEL} must be {wanted}, the SHA-256 of the run's "
        "spec; build the image with that file (`make image SPEC=FILE`)"
    )
    raise CommandError(INVALID, why)


def build_and_push(
    reference: str, spec_path: Path, revision: str, arguments: Mapping[str, str] | None = None
) -> str:
    """Build the CUDA image with a spec and push it; returns it by digest. Raises CommandError."""
    relative = spec_path.resolve().relative_to(ROOT).as_posix()
    own = {"SPEC": relative, "SPEC_SHA256": spec_sha256(spec_path), "REVISION": revision}
    command = ["build", "--platform", "linux/amd64", "--target", "cuda", "-t", reference]
    for name, value in {**(arguments or {}), **own}.items():
        command += ["--build-arg", f"{name}={value}"]
    _run_docker(*command, str(ROOT))
    _run_docker("push", reference)
    image = find_image(reference)
    if image is None:
        raise CommandError(ERROR, f"{reference} was pushed, but the registry does not have it")
    return image.reference


def _run_docker(*arguments: str) -> None:
    """Run docker with its progress on stderr; raises CommandError."""
    client = shutil.which("docker")
    if client is None:
        why = "no docker here to build an image with; install it, or name one by --image"
        raise CommandError(ERROR, why)
    # The Dockerfile needs BuildKit, which is not every client's default.
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    ended = subprocess.run([client, *arguments], stdout=2, env=environment)  # noqa: S603 - docker's client, no shell
    if ended.returncode:
        why = f"docker {arguments[0]} failed with exit code {ended.returncode}; see its output"
        raise CommandError(ERROR, why)
