"""What names modules and files of job/ from outside follows when they move."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from job.run.liveness import Liveness, write
from tests.support.command import ROOT, environment

DOCKERFILE = (ROOT / "Dockerfile").read_text()
MODULES = re.findall(r'"python", "-m", "([\w.]+)"', DOCKERFILE)
MODULES += re.findall(r"python -m (job[\w.]*)", DOCKERFILE)


@pytest.mark.parametrize("module", sorted(set(MODULES)))
def test_the_dockerfile_names_modules_that_exist(module: str) -> None:
    """Entry point, health check and baking."""
    assert importlib.util.find_spec(module) is not None


def test_the_health_check(tmp_path: Path) -> None:
    """The Dockerfile's own command: it fails without a liveness file, and passes with a new one."""
    found = re.search(r"HEALTHCHECK .*\\\n\s+CMD (\[.*\])", DOCKERFILE)
    assert found is not None
    _, *arguments = json.loads(found[1])
    path = tmp_path / "liveness.json"

    def check() -> int:
        settings = environment(EVENGRAD_HEARTBEAT=str(path))
        return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=settings).returncode

    assert check() == 1
    write(path, Liveness("training", 1))
    assert check() == 0


def test_a_wheel_holds_every_file() -> None:
    """Each file of job/ and deploy/ is a package's module, or named as a package's data."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    data, forgotten = tool["package-data"], []
    for path in (p for top in ("job", "deploy") for p in (ROOT / top).rglob("*") if p.is_file()):
        if "__pycache__" in path.parts:
            continue
        package = path.parent
        while not (package / "__init__.py").exists():
            package = package.parent
        name = ".".join(package.relative_to(ROOT).parts)
        inside = str(path.relative_to(package))
        is_module = path.suffix == ".py" and path.parent == package
        if not is_module and not any(fnmatch(inside, kind) for kind in data.get(name, [])):
            forgotten.append(str(path.relative_to(ROOT)))
    assert forgotten == []
