"""The network, the loss and the metric that docs/ shows are sound as they stand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from job.data.dataset import load
from job.errors import InputError
from job.spec.read import read_spec
from job.train.build.check_own import check_own
from tests.support.command import ROOT, environment


def blocks(page: str, language: str) -> list[str]:
    """The page's code blocks in a language."""
    text = (ROOT / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """README's data and spec, with the page's network; the spec's path."""
    folder = tmp_path_factory.mktemp("machines")
    script = [sys.executable, "-c", blocks("README.md", "python")[0]]
    subprocess.run(script, cwd=folder, env=environment(), check=True)
    spec = json.loads(blocks("README.md", "json")[0])
    model = next(b for b in blocks("docs/networks.md", "json") if '"build"' in b)
    spec |= json.loads(f"{{{model}}}")
    path = folder / "machines.json"
    path.write_text(json.dumps(spec))
    (folder / "network.py").write_text(blocks("docs/networks.md", "python")[0])
    return path


def test_the_pages_network_is_sound(machines: Path) -> None:
    """It passes `validate` as it stands, and fits on a screen."""
    spec = read_spec(machines)
    check_own(spec, load(spec, machines.parent))
    assert len(blocks("docs/networks.md", "python")[0].splitlines()) < 40


def test_the_pages_fault_is_real(machines: Path, tmp_path: Path) -> None:
    """The line that the page shows is what its network says, with heads of the wrong width."""
    source = blocks("docs/networks.md", "python")[0]
    (tmp_path / "network.py").write_text(source.replace("nn.Linear(width,", "nn.Linear(32,"))
    (tmp_path / "spec.json").write_text(machines.read_text())
    spec = read_spec(tmp_path / "spec.json")
    data = replace(load(spec, machines.parent), folder=tmp_path)
    with pytest.raises(InputError) as caught:
        check_own(spec, data)
    assert str(caught.value) == blocks("docs/networks.md", "text")[0].strip()


def test_loss_and_metric_are_sound(machines: Path, tmp_path: Path) -> None:
    """The functions of docs/losses.md and docs/verdict.md pass `validate` with README's `wear`."""
    spec = json.loads(machines.read_text())
    loss = next(b for b in blocks("docs/losses.md", "json") if '"python"' in b)
    spec["tasks"][1] |= json.loads(f"{{{loss}}}")
    metric = next(b for b in blocks("docs/verdict.md", "json") if "own_metrics" in b)
    spec["tasks"][1] |= json.loads(f"{{{metric}}}")
    (tmp_path / "metrics.py").write_text(blocks("docs/verdict.md", "python")[0])
    (tmp_path / "spec.json").write_text(json.dumps(spec | {"model": {}}))
    (tmp_path / "loss.py").write_text(blocks("docs/losses.md", "python")[0])
    job = read_spec(tmp_path / "spec.json")
    check_own(job, replace(load(job, machines.parent), folder=tmp_path))
