"""Baking a spec into an image: `python -m job.bake SPEC OUT`, run while the image is built.

Checks the spec against its rules and its data, and writes OUT/data (what the spec reads, by its
relative path) and OUT/spec (`spec.json`, the code that it names, and `build.json`, which describes
the image). Two folders become two layers, so a new spec leaves the data's layer as it is.

`python -m job.bake --requirements SPEC OUT` writes the `requirements.txt` of the spec's own code to
the folder OUT, which stays empty if there is none. It looks at nothing else, as the packages that
the code needs are installed by it.
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

from job.errors import Fault, InputError
from job.exit_codes import INVALID
from job.spec import JobSpec, files_of
from job.spec.own_code import REQUIREMENTS
from job.spec.read import read_spec
from job.version import VERSION


def bake(path: Path, out: Path, environment: Mapping[str, str]) -> None:
    """Write the content of the image's last layers to `out`.

    Raises InputError if the spec is invalid, if its data is missing or does not fit it, or if the
    spec or torch's CUDA is not what SPEC_SHA256 and CUDA_VERSION in the environment announce.
    """
    spec = _read(path)
    data, specs = out / "data", out / "spec"
    data.mkdir(parents=True)
    specs.mkdir()
    files = local_files(spec)
    for local in files:
        if (path.parent / local).is_dir():
            rule, remedy = "an image holds files", "put it in S3 and write s3://bucket/prefix/"
            raise InputError([Fault(str(local), "a folder of shards", rule, remedy)])
    if files:
        _check_data(spec, path.parent)
    for local in files:
        _copy(path.parent / local, data / local)
    for local in code_files(spec):
        _copy(path.parent / local, specs / local)
    text = path.read_bytes()
    (specs / "spec.json").write_bytes(text)
    build = build_info(text, spec, environment)
    (specs / "build.json").write_text(json.dumps(build, indent=2) + "\n")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def local_files(spec: JobSpec) -> list[PurePosixPath]:
    """The files that the spec names, those in S3 left out, relative to it. Raises InputError."""
    remedy = "move the file there, or put it in S3 and write s3://bucket/key"
    return [
        _below(name, where, "data", remedy)
        for where, name in spec.files.items()
        if not name.startswith("s3://")
    ]


def code_files(spec: JobSpec) -> list[PurePosixPath]:
    """The files of the spec's own code, relative to the spec, each once. Raises InputError."""
    found = [
        _below(name, f"{where}.file", "code", "move the file there")
        for where, section in spec.own_code.items()
        for name in files_of(section)
    ]
    return list(dict.fromkeys(found))


def _below(name: str, where: str, what: str, remedy: str) -> PurePosixPath:
    """The path. Raises InputError if it lies neither beside nor below the spec."""
    path = PurePosixPath(os.path.normpath(name))
    if path.is_absolute() or path.parts[0] == "..":
        rule = f"an image holds {what} that lies beside its spec or below"
        raise InputError([Fault(where, json.dumps(name), rule, remedy)])
    return path


def _check_data(spec: JobSpec, folder: Path) -> None:
    import torch

    from job.data.dataset import load
    from job.train.build.check_own import check_own
    from job.train.build.compiled import check_compiler
    from job.train.build.parts import check_parts

    data = load(spec, folder, test=True)
    check_own(spec, data)
    check_parts(spec, data)
    if spec.train.compile:  # the image's own compiler, which its pods have
        check_compiler(torch.device("cpu" if cuda_of_torch() is None else "cuda"))


def build_info(text: bytes, spec: JobSpec, environment: Mapping[str, str]) -> dict[str, str | None]:
    """What the image is made of; raises InputError if it is not what was announced."""
    digest, cuda = hashlib.sha256(text).hexdigest(), cuda_of_torch()
    for name, actual in (("SPEC_SHA256", digest), ("CUDA_VERSION", cuda or "none")):
        announced = environment.get(name)
        if announced and announced != actual:
            rule = f"the image's is {actual}, and its label would lie"
            remedy = "build with the true one, or without it"
            raise InputError([Fault(name, announced, rule, remedy)])
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
    """The CUDA that torch was built for, without importing torch; None for a CPU build."""
    module = util.find_spec("torch")
    assert module is not None
    assert module.origin is not None
    cuda = runpy.run_path(str(Path(module.origin).parent / "version.py"))["cuda"]
    return None if cuda is None else str(cuda)


def requirements(path: Path, out: Path) -> None:
    """Write the requirements of a spec's own code into a new folder. Raises InputError."""
    out.mkdir(parents=True)
    found = [local for local in code_files(_read(path)) if local.name == REQUIREMENTS]
    if len(found) > 1:
        named = ", ".join(map(str, found))
        rule, remedy = "an image has the packages of one file", "put all code into one folder"
        raise InputError([Fault(REQUIREMENTS, named, rule, remedy)])
    for local in found:
        _copy(path.parent / local, out / REQUIREMENTS)


def _read(path: Path) -> JobSpec:
    if not path.is_file():
        rule = "is not in the build context, or .dockerignore leaves it out"
        remedy = "give SPEC relative to the context; specs lie at its top or in docker/"
        raise InputError([Fault("SPEC", str(path), rule, remedy)])
    return read_spec(path)


def main() -> None:
    """Run the command line; each fault is one line on stderr, with exit code 2."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--requirements"]
    if len(arguments) != 2:
        sys.exit("usage: python -m job.bake [--requirements] SPEC OUT")
    path, out = map(Path, arguments)
    try:
        if "--requirements" in sys.argv:
            requirements(path, out)
        else:
            bake(path, out, os.environ)
    except InputError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        sys.exit(INVALID)


if __name__ == "__main__":
    main()
