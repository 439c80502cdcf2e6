"""What `python -m job.bake` puts into an image for a network of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from job.bake import bake, requirements
from job.errors import InputError
from job.spec.read import read_spec
from tests.support.own_networks import FAULTY, SOUND, place
from tests.support.tiny_job import edited


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_files_are_baked(tmp_path: Path) -> None:
    """The network's file and those that it imports lie beside the spec, as they lay; the baked spec
    has the content of the original."""
    path = place(tmp_path / "context", *SOUND["conv"])
    (path.parent / "other.py").write_text("")
    bake(path, tmp_path / "out", {})
    assert files(tmp_path / "out") == [
        *("data/small.npz", "spec/blocks.py", "spec/build.json", "spec/network.py"),
        "spec/spec.json",
    ]
    job = tmp_path / "job"
    (tmp_path / "out" / "spec").rename(job)
    content = read_spec(path).content_hash()
    assert read_spec(job / "spec.json").content_hash() == content
    assert json.loads((job / "build.json").read_text())["spec_content"] == content


def test_a_faulty_network_fails_the_build(tmp_path: Path) -> None:
    """With the line that `validate` has."""
    source, line = FAULTY["wrong shape"]
    path = place(tmp_path / "context", source)
    with pytest.raises(InputError) as caught:
        bake(path, tmp_path / "out", {})
    assert str(caught.value) == line


def test_code_outside_is_refused(tmp_path: Path) -> None:
    """An image holds what lies beside its spec or below, at the same relative path."""
    path = place(tmp_path / "context", *SOUND["mlp"])
    (tmp_path / "network.py").write_text((path.parent / "network.py").read_text())
    path.write_text(path.read_text().replace('"network.py"', '"../network.py"'))
    with pytest.raises(InputError, match=r'^\$.model.file: found "../network.py"; an image holds'):
        bake(path, tmp_path / "out", {})


def test_requirements_of_the_own_code(tmp_path: Path) -> None:
    """They are what the image's own layer is made of; without any, or for a built-in network, there
    is none. No file is run for that."""
    path = place(tmp_path / "context", "raise SystemExit\n")
    requirements(path, tmp_path / "none")
    assert files(tmp_path / "none") == []
    (path.parent / "requirements.txt").write_text("timm==1.0.20\n")
    requirements(path, tmp_path / "some")
    assert (tmp_path / "some" / "requirements.txt").read_text() == "timm==1.0.20\n"
    path.write_text(json.dumps(edited({})))
    requirements(path, tmp_path / "other")
    assert files(tmp_path / "other") == []
