"""The image with the spec baked: its tag says its content, so that nothing is built twice.

Docker's own client builds and pushes, and shows its progress. What RunPod is given is a digest,
never a tag: hosts cache by tag.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from deploy.ends import ERROR, Stop
from job.faults import Fault, InputError
from job.spec import JobSpec

ROOT = Path(__file__).parents[1]
"""The build's context: a checkout of evengrad."""
CUDA = "13.0"
"""Of the image, as its label says; what the host's driver must have."""
PINNED = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")
PLATFORM = {"os": "linux", "architecture": "amd64"}
SECONDS = 120.0
"""For one question to a registry."""


def check_pinned(reference: str) -> str:
    """The reference; raises InputError unless it names a digest."""
    if not PINNED.fullmatch(reference):
        rule = "an image must be named by digest, REPOSITORY@sha256:…: hosts cache by tag"
        remedy = "`docker image inspect` shows RepoDigests"
        raise InputError([Fault("--image", reference, rule, remedy)])
    return reference


def tag(repository: str, spec_path: Path, spec: JobSpec) -> str:
    """`REPOSITORY:NAME-CONTENT`; CONTENT is of every file that enters the image.

    Raises InputError for a spec or data outside the checkout, which no build can reach.
    """
    digest = hashlib.sha256()
    for path in _files(spec_path, spec):
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{repository}:{spec.name}-{digest.hexdigest()[:16]}"


def _files(spec_path: Path, spec: JobSpec) -> Iterator[Path]:
    data = spec.data.path
    entering = [spec_path.resolve()]
    if not data.startswith("s3://"):
        entering.append((spec_path.resolve().parent / data).resolve())
    for path in entering:
        if not path.is_relative_to(ROOT):
            rule = f"what is baked must lie in {ROOT}, the build's context"
            raise InputError([Fault(str(path), "outside of it", rule, "copy it there")])
    fixed = [ROOT / name for name in ("Dockerfile", "pyproject.toml", "constraints.txt")]
    yield from sorted({*entering, *fixed, *(ROOT / "job").glob("*.py")})


def pinned(reference: str) -> str | None:
    """A reference by digest, of the image for linux/amd64 that a registry has; else None.

    Raises Stop where the registry does not answer, or has it for other platforms only.
    """
    asked = _docker("manifest", "inspect", "--verbose", reference)
    if asked.returncode:
        said = asked.stderr.strip()
        if re.search(r"no such manifest|manifest unknown|not found|name unknown", said, re.I):
            return None
        raise Stop(ERROR, f"docker cannot ask for {reference}: {_last(said)}")
    found = json.loads(asked.stdout)
    for manifest in found if isinstance(found, list) else [found]:
        descriptor = manifest["Descriptor"]
        platform = descriptor.get("platform") or {}
        if PLATFORM.items() <= platform.items():
            return f"{_repository(reference)}@{descriptor['digest']}"
    raise Stop(ERROR, f"{reference} is not for linux/amd64, which RunPod's hosts are")


def build_and_push(reference: str, spec_path: Path, revision: str) -> str:
    """Build the CUDA image with a spec and push it; returns it by digest. Raises Stop."""
    relative = spec_path.resolve().relative_to(ROOT)
    sha256 = hashlib.sha256(spec_path.read_bytes()).hexdigest()
    arguments = {"SPEC": str(relative), "SPEC_SHA256": sha256, "REVISION": revision}
    command = ["build", "--platform", "linux/amd64", "--target", "cuda", "-t", reference]
    for name, value in arguments.items():
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
        raise Stop(ERROR, f"docker {arguments[0]} took more than {SECONDS:.0f} s") from None


def _shown(*arguments: str) -> None:
    """Run docker with its progress on stderr; raises Stop."""
    ended = subprocess.run([_client(), *arguments], stdout=2)  # noqa: S603 - docker's client, no shell
    if ended.returncode:
        why = f"docker {arguments[0]} failed with exit code {ended.returncode}; see its output"
        raise Stop(ERROR, why)


def _client() -> str:
    client = shutil.which("docker")
    if client is None:
        why = "no docker here to build or look at images with; install it, or name one by --image"
        raise Stop(ERROR, why)
    return client


def _last(said: str) -> str:
    return said.splitlines()[-1] if said else "no reason given"
