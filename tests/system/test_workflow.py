"""The workflow of docs/ that builds an image elsewhere is valid, and names what exists."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

from ruamel.yaml import YAML

from tests.support.command import ROOT

WORKFLOW = ROOT / "docs" / "workflows" / "image.yml"


def build() -> dict[str, Any]:
    """The inputs of the step that builds and pushes."""
    steps = YAML(typ="safe").load(WORKFLOW.read_text("utf-8"))["jobs"]["image"]["steps"]
    (step,) = [step for step in steps if step.get("id") == "build"]
    return dict(step["with"])


def test_the_workflow_is_valid() -> None:
    """It satisfies GitHub's schema of workflows."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    command += ["vendor.github-workflows", str(WORKFLOW)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_workflow_builds_what_the_dockerfile_has() -> None:
    """Its target and build arguments are the Dockerfile's, and the files that it reads exist."""
    docker = (ROOT / "Dockerfile").read_text("utf-8")
    inputs = build()
    assert re.search(rf"^FROM .* AS {inputs['target']}$", docker, re.MULTILINE)
    names = [line.partition("=")[0] for line in inputs["build-args"].splitlines()]
    assert names == ["PYTHON", "SPEC", "SPEC_SHA256", "REVISION"]
    for name in names:
        assert re.search(rf"^ARG {name}\b", docker, re.MULTILINE), name
    assert inputs["platforms"] == "linux/amd64"
    assert "\nPYTHON=" in (ROOT / "docker" / "base-images.env").read_text("utf-8")
