"""Code of one's own that a spec names: which files it is, and their SHA-256. Nothing of it runs.

A file imports others from beside itself, and these again others. All of them, and a
`requirements.txt` beside the file, decide what a run computes, so their digests are part of the
spec's content. They are found by reading import statements, as no import may run where there is no
torch.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import Field

from job.errors import Fault, InputError
from job.spec.base import Section, Text

REQUIREMENTS = "requirements.txt"
PINNED = re.compile(r"[A-Za-z0-9][\w.-]*(\[[\w., -]*\])?\s*(===?\s*[\w.!+-]+(\s|;|$)|@\s*\S)")
"""A requirement that names one version, or one file."""
OPTIONS = ("--hash", "--index-url", "--extra-index-url", "--find-links")
"""Of pip: what may stand in requirements.txt, which alone enters the image."""
WITH_LOGIN = re.compile(r"://[^/\s]*@")
"""An address with a user's name or password."""
FILE = r"^(.*/)?[^/]+\.py$"
IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_]*$"
DIGEST = r"^[0-9a-f]{64}$"
NOT_BESIDE = sys.stdlib_module_names | {"job", "deploy"}
"""Names that are those of Python's and of evengrad's own modules, whatever lies beside a file."""


class PythonFile(Section):
    """Code of one's own, in a Python file."""

    file: Annotated[str, Field(pattern=FILE)]
    """The file, relative to the spec."""
    options: dict[str, Any] = {}
    """Keyword arguments, any JSON values."""
    files: tuple[Text, ...] = ()
    """Further files that it reads, such as trained weights, relative to its folder."""
    sha256: dict[str, Annotated[str, Field(pattern=DIGEST)]] = {}
    """SHA-256, in hex, of the file, of all that it imports from beside itself, and of `files`; by
    path relative to its folder. You leave it out: it is filled in when the spec is read."""


Code = TypeVar("Code", bound=PythonFile)


def pinned(section: Code, folder: Path, where: str) -> Code:
    """The section with the digests of its files. Raises InputError.

    folder: of the spec. where: the section's JSON path.
    """
    file = folder / section.file
    if not file.is_file():
        rule, remedy = "the file must be there", "correct the path, which is relative to the spec"
        raise InputError([Fault(f"{where}.file", json.dumps(section.file), rule, remedy)])
    try:
        digests = {name: _sha256(file.parent / name) for name in _needed(file, section.files)}
    except OSError as error:
        found = f"{error.filename}: {error.strerror}"
        rule, remedy = "the file must be there, and readable", "correct its path, or chmod +r it"
        raise InputError([Fault(where, found, rule, remedy)]) from error
    faults = [
        Fault(
            f"{where}.sha256.{name}",
            json.dumps(given),
            f"the file's is {digests[name]}" if name in digests else "no such file is imported",
            "restore the file, or remove sha256, which is then filled in",
        )
        for name, given in section.sha256.items()
        if given != digests.get(name)
    ]
    if faults:
        raise InputError(faults)
    return section.model_copy(update={"sha256": digests})


def files_of(section: PythonFile) -> list[str]:
    """Paths of its files, relative to the spec. The digests must be known."""
    folder = PurePosixPath(section.file).parent
    return [str(folder / name) for name in section.sha256]


def sources(section: PythonFile) -> dict[str, str]:
    """Its Python files and requirements, by path relative to the spec, with their digests.

    What else it reads, such as trained weights, is left out.
    """
    folder = PurePosixPath(section.file).parent
    return {
        str(folder / name): digest
        for name, digest in section.sha256.items()
        if name.endswith(".py") or name == REQUIREMENTS
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _needed(file: Path, more: Sequence[str]) -> list[str]:
    """The files that a file of one's own needs, itself first, by path relative to its folder.

    Raises InputError for one that is no Python, or a requirement that is not pinned; OSError.
    """
    folder, found = file.parent, set[str]()
    waiting = [file.name, *(name for name in more if name.endswith(".py"))]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imported(name, (folder / name).read_bytes(), folder)
    if (folder / REQUIREMENTS).is_file():
        found.add(REQUIREMENTS)
        _check_pins((folder / REQUIREMENTS).read_text("utf-8", "replace"))
    return [file.name, *sorted({*found, *more} - {file.name})]


def modules(names: Iterable[str]) -> dict[str, str]:
    """The files among `names` that are modules, by dotted name: `parts/deep.py` is parts.deep."""
    return {
        ".".join(PurePosixPath(name.removesuffix("/__init__.py").removesuffix(".py")).parts): name
        for name in names
        if name.endswith(".py")
    }


def _imported(name: str, source: bytes, folder: Path) -> Iterator[str]:
    """The files beside that a file imports."""
    try:
        tree = ast.parse(source, name)
    # ValueError: a NUL; the others: an expression that is nested too deeply.
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        found = f"{type(error).__name__}: {getattr(error, 'msg', error)}"
        rule = f"the file must be Python {sys.version_info.major}.{sys.version_info.minor}"
        raise InputError([Fault(f"{name}:{line}", found, rule, "correct the file")]) from error
    package = PurePosixPath(name).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(alias.name.split("."), folder)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = [*above, *(node.module.split(".") if node.module else ())]
            for alias in node.names:  # each may be a module, or a name in one
                yield from _files([*module, alias.name], folder, own=node.level > 0)


def _files(module: list[str], folder: Path, own: bool = False) -> Iterator[str]:
    """The files of a dotted name and of the packages that it lies in, if they lie beside.

    own: true for a relative import.
    """
    if not own and module[0] in NOT_BESIDE:
        return
    for end in range(1, len(module) + 1):
        path = "/".join(module[:end])
        for candidate in (f"{path}/__init__.py", f"{path}.py"):
            if (folder / candidate).is_file():
                yield candidate
                break


def _check_pins(text: str) -> None:
    lines = re.sub(r"\\\n", " ", text).split("\n")
    faults = []
    for line in (re.sub(r"(^|\s)#.*", "", each).strip() for each in lines):
        if WITH_LOGIN.search(line):
            rule, remedy = "an image keeps no password", "take the login out of the address"
            faults.append(Fault(REQUIREMENTS, "an address with a login", rule, remedy))
        elif line.startswith("-") and line.split("=")[0].split()[0] not in OPTIONS:
            rule = f"of pip's options the image takes {', '.join(OPTIONS)}"
            faults.append(Fault(REQUIREMENTS, json.dumps(line), rule, "write NAME==… for each"))
        elif line and not line.startswith("-") and not PINNED.match(line):
            rule = "each package must have one version"
            faults.append(Fault(REQUIREMENTS, json.dumps(line), rule, "write NAME==…"))
    if faults:
        raise InputError(faults)
