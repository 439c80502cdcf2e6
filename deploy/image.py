"""The image with the spec baked: its tag says its content, so that nothing is built twice.

Docker's own client builds and pushes, and shows its progress; its buildx, which builds, looks at
registries too, with the same credentials. What RunPod is given is a digest, never a tag: hosts
cache by tag.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deploy.ends import ERROR, Stop
from job.faults import Fault, InputError
from job.spec import JobSpec

ROOT = Path(__file__).resolve().parents[1]
"""The build's context: a checkout of evengrad."""
CUDA = "13.0"
"""Of the image, as its label says; what the host's driver must have."""
PINNED = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")
PLATFORM = {"os": "linux", "architecture": "amd64"}
SECONDS = 120.0
"""For one question to a registry."""
WANTED = '{"manifest": {{json .Manifest}}, "image": {{json .Image}}}'
"""What is asked about an image, in buildx's words."""
OWN = {"SPEC", "SPEC_SHA256", "REVISION", "CUDA_VERSION"}
"""Build arguments that say what the image is; no user sets them."""


class Denied(Stop):
    """A registry shows an image to nobody, or not to this user: it does not say which."""


def check_pinned(reference: str) -> str:
    """The reference; raises InputError unless it names a digest."""
    if not PINNED.fullmatch(reference):
        rule = "an image must be named by digest, REPOSITORY@sha256:…: hosts cache by tag"
        remedy = "`docker image inspect` shows RepoDigests"
        raise InputError([Fault("--image", reference, rule, remedy)])
    return reference


def build_arguments(given: Sequence[str]) -> dict[str, str]:
    """Of `NAME=VALUE` each; raises InputError for what the Dockerfile does not take of users."""
    if not given:
        return {}
    declared = re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.M)
    known = sorted({*declared} - OWN)
    pairs = [argument.partition("=") for argument in given]
    rule = f"the Dockerfile takes NAME=VALUE for {', '.join(known)}"
    faults = [
        Fault("--build-arg", name, rule, "correct or remove it")
        for name, sign, _ in pairs
        if not sign or name not in known
    ]
    if faults:
        raise InputError(faults)
    return {name: value for name, _, value in pairs}


def tag(
    repository: str, spec_path: Path, spec: JobSpec, arguments: Mapping[str, str] | None = None
) -> str:
    """`REPOSITORY:NAME-CONTENT`; CONTENT is of every file and argument that enters the image.

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
    data = spec.data.path
    entering = [spec_path.resolve()]
    if not data.startswith("s3://"):
        entering.append((spec_path.resolve().parent / data).resolve())
    for path in entering:
        if path.parent not in (ROOT, ROOT / "docker"):
            rule = f"what is baked must lie in {ROOT} or its docker/: the build sees nothing else"
            raise InputError([Fault(str(path), "another folder", rule, "move it there")])
    fixed = [ROOT / name for name in ("Dockerfile", "pyproject.toml", "constraints.txt")]
    code = [path for kind in ("*.py", "page/*") for path in (ROOT / "job").glob(kind)]
    for path in sorted({*entering, *fixed, *code}):
        if not path.is_file():
            rule = "it enters the image, which is built from a checkout of evengrad"
            remedy = "put it there, or name an image by --image"
            raise InputError([Fault(str(path), "no such file", rule, remedy)])
        yield path


def pinned(reference: str) -> str | None:
    """A reference by digest, of the image for linux/amd64 that a registry has; else None.

    Raises Stop where the registry does not answer, or has it for other platforms only.
    """
    asked = _docker("buildx", "imagetools", "inspect", "--format", WANTED, reference)
    if asked.returncode:
        _raise_unless_absent(reference, asked.stderr)
        return None
    try:
        found = json.loads(asked.stdout)
        manifest = found["manifest"]
        alone = {"digest": manifest["digest"], "platform": found["image"]}
        for one in manifest.get("manifests") or [alone]:
            if PLATFORM.items() <= (one["platform"] or {}).items():
                return f"{_repository(reference)}@{one['digest']}"
    except (ValueError, KeyError, TypeError, AttributeError):
        why = f"docker's buildx says of {reference} what is not understood here; update it"
        raise Stop(ERROR, why) from None
    raise Stop(ERROR, f"{reference} is not for linux/amd64, which RunPod's hosts are")


def _raise_unless_absent(reference: str, said: str) -> None:
    """Raises Stop for every reason but that the registry has no such image."""
    why = next((part[7:] for part in said.splitlines() if part.startswith("ERROR: ")), None)
    if why is None:  # docker itself did not understand
        why = "docker has no buildx here that can look at images; install docker-buildx-plugin"
        raise Stop(ERROR, why)
    # The whole name: "executable file not found" is about a credential helper.
    if why.endswith(f"{reference.rpartition('/')[2]}: not found"):
        return
    kind = Denied if "may require authorization" in why else Stop
    raise kind(ERROR, f"docker cannot ask for {reference}: {why}")


def build_and_push(
    reference: str, spec_path: Path, revision: str, arguments: Mapping[str, str] | None = None
) -> str:
    """Build the CUDA image with a spec and push it; returns it by digest. Raises Stop."""
    relative = spec_path.resolve().relative_to(ROOT).as_posix()
    sha256 = hashlib.sha256(spec_path.read_bytes()).hexdigest()
    own = {"SPEC": relative, "SPEC_SHA256": sha256, "REVISION": revision}
    command = ["build", "--platform", "linux/amd64", "--target", "cuda", "-t", reference]
    for name, value in {**(arguments or {}), **own}.items():
        command += ["--build-arg", f"{name}={value}"]
    _shown(*command, str(ROOT))
    _shown("push", reference)
    found = pinned(reference)
    if found is None:
        raise Stop(ERROR, f"{reference} was pushed, but the registry does not have it")
    return found


def _repository(reference: str) -> str:
    """Without tag or digest; a colon before the last slash is a port's."""
    base = reference.partition("@")[0]
    folder, slash, name = base.rpartition("/")
    return f"{folder}{slash}{name.partition(':')[0]}"


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Ask docker something; raises Stop where it is not there, or says nothing for too long."""
    command = [_client(), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)  # noqa: S603 - docker's client, no shell
    except subprocess.TimeoutExpired:
        why = f"docker had no answer about {arguments[-1]} within {SECONDS:.0f} s"
        raise Stop(ERROR, why) from None


def _shown(*arguments: str) -> None:
    """Run docker with its progress on stderr; raises Stop."""
    # The Dockerfile needs BuildKit, which is not every client's default.
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    ended = subprocess.run([_client(), *arguments], stdout=2, env=environment)  # noqa: S603 - docker's client, no shell
    if ended.returncode:
        why = f"docker {arguments[0]} failed with exit code {ended.returncode}; see its output"
        raise Stop(ERROR, why)


def _client() -> str:
    client = shutil.which("docker")
    if client is None:
        why = "no docker here to build or look at images with; install it, or name one by --image"
        raise Stop(ERROR, why)
    return client
