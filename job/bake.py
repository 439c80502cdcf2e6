"""A spec made part of an image: `python -m job.bake SPEC OUT`, run while the image is built.

Checks the spec against its rules and its data, and lays out OUT/data (what the spec reads, by its
relative path) and OUT/spec (`spec.json`, and `build.json` which tells what the image is made of):
two folders, so that they become two layers and a new spec leaves the data's alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import shutil
import sys
from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path, PurePosixPath

from job.faults import Fault, InputError
from job.read_spec import read_spec
from job.spec import JobSpec
from job.version import VERSION

FAILED, INVALID = 1, 2


def bake(path: Path, out: Path, environment: Mapping[str, str]) -> None:
    """Lay out what the image's last layers hold.

    Raises InputError where the spec is invalid, its data is not there or does not fit it, or
    where it, or the CUDA of torch, is not what SPEC_SHA256 and CUDA_VERSION in the environment say.
    """
    if not path.is_file():
        rule = "is not in the build context, or .dockerignore leaves it out"
        remedy = "give SPEC relative to the context; specs lie at its top or in docker/"
        raise InputError([Fault("SPEC", str(path), rule, remedy)])
    spec = read_spec(path)
    data, specs = out / "data", out / "spec"
    data.mkdir(parents=True)
    specs.mkdir()
    if (local := local_data(spec)) is not None:
        _check_data(spec, path.parent)
        (data / local).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path.parent / local, data / local)
    text = path.read_bytes()
    (specs / "spec.json").write_bytes(text)
    build = facts(text, spec, environment)
    (specs / "build.json").write_text(json.dumps(build, indent=2) + "\n")


def local_data(spec: JobSpec) -> PurePosixPath | None:
    """The spec's data file, relative to the spec; None where it is in S3.

    Raises InputError where it lies neither beside nor below the spec.
    """
    if spec.data.path.startswith("s3://"):
        return None
    path = PurePosixPath(os.path.normpath(spec.data.path))
    if path.is_absolute() or path.parts[0] == "..":
        rule = "an image holds data that lies beside its spec or below"
        remedy = "move the file there, or put it in S3 and write s3://bucket/key"
        raise InputError([Fault("$.data.path", json.dumps(spec.data.path), rule, remedy)])
    return path


def _check_data(spec: JobSpec, folder: Path) -> None:
    from job.data import load
    from job.train import balancer

    balancer(spec, load(spec, folder))


def facts(text: bytes, spec: JobSpec, environment: Mapping[str, str]) -> dict[str, str | None]:
    """What the image is made of; raises InputError where it is not what was announced."""
    digest, cuda = hashlib.sha256(text).hexdigest(), cuda_of_torch()
    for name, found in (("SPEC_SHA256", digest), ("CUDA_VERSION", cuda or "none")):
        announced = environment.get(name)
        if announced and announced != found:
            rule = f"the image's is {found}, and its label would lie"
            raise InputError([Fault(name, announced, rule, "build with the true one, or without")])
    return {
        "spec_sha256": digest,
        "spec_content": spec.content_hash(),
        "version": VERSION,
        "revision": environment.get("REVISION") or None,
        "torch": metadata.version("torch"),
        "cuda": cuda,
        "python": sys.version.split()[0],
    }


def cuda_of_torch() -> str | None:
    """The CUDA that torch was built for, read without importing it; None for a CPU build."""
    found = util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    cuda = runpy.run_path(str(Path(found.origin).parent / "version.py"))["cuda"]
    return None if cuda is None else str(cuda)


def main() -> None:
    """The command line; a fault is one line on stderr, exit code 2."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m job.bake SPEC OUT")
    try:
        bake(Path(sys.argv[1]), Path(sys.argv[2]), os.environ)
    except InputError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        sys.exit(INVALID)


if __name__ == "__main__":
    main()
