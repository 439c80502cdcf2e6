"""The files of a network of one's own, as part of the spec's content; none of them runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from job.errors import InputError
from job.record.claim import claim
from job.spec import JobSpec, Python, files_of
from job.spec.read import parse_spec, read_spec
from job.store.directory import DirectoryStore
from tests.support.tiny_job import edited

NEVER = "raise SystemExit('it was run')\n"


def write(folder: Path, texts: dict[str, str], **model: object) -> Path:
    """A spec whose network's file is network.py, and files of texts; returns the spec's path."""
    for name, source in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    path = folder / "spec.json"
    own = {"kind": "python", "file": "network.py", **model}
    path.write_text(json.dumps(edited({"model": own})))
    return path


def own(spec: JobSpec) -> Python:
    assert isinstance(spec.model, Python)
    return spec.model


def fault(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_spec(path)
    return str(caught.value)


def test_what_lies_beside_and_is_imported(tmp_path: Path) -> None:
    """Each way to import a file from beside, also from within another one, and nothing else."""
    files = {
        "network.py": "import a, b.c as c, json, torch\nfrom d import e, f\nfrom . import g\n"
        "def build(tasks, inputs):\n    import h.i\n    from j import *\n",
        "a.py": "if False:\n    from k import something\n",
        "b/__init__.py": "from .l import x\n",
        "b/c.py": "from ..m import x\nfrom . import n\nfrom .. import o\n",
        "d/e.py": "",
        "d/__init__.py": "f = 1\n",
        "h/i.py": "import network\n",
        **{f"{name}.py": "" for name in "gjkmo"},
        **{f"b/{name}.py": "" for name in "ln"},
        **{f"{name}.py": NEVER for name in ("json", "unused", "b/unused", "d/unused")},
    }
    spec = read_spec(write(tmp_path, {name: NEVER + source for name, source in files.items()}))
    assert list(own(spec).sha256) == [
        *("network.py", "a.py", "b/__init__.py", "b/c.py", "b/l.py", "b/n.py", "d/__init__.py"),
        *("d/e.py", "g.py", "h/i.py", "j.py", "k.py", "m.py", "o.py"),
    ]
    for name, digest in own(spec).sha256.items():
        assert digest == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_content_is_that_of_the_files(tmp_path: Path) -> None:
    """The hash of the content changes with the file, with one beside and with the requirements,
    and with nothing else; a path to the same files in another folder has the same digests."""
    files = {"network.py": "import blocks\n", "blocks.py": "x = 1\n", "other.py": "y = 1\n"}
    path = write(tmp_path, files)
    hashes = [read_spec(path).content_hash()]
    for name in ("network.py", "blocks.py", "requirements.txt"):
        with (tmp_path / name).open("a") as file:
            file.write("# more\n")
        hashes.append(read_spec(path).content_hash())
    assert len(set(hashes)) == 4
    (tmp_path / "other.py").write_text("y = 2\n")
    assert read_spec(path).content_hash() == hashes[-1]
    below = tmp_path / "below" / "spec.json"
    below.parent.mkdir()
    below.write_text(path.read_text().replace('"network.py"', '"../network.py"'))
    assert own(read_spec(below)).sha256 == own(read_spec(path)).sha256
    assert files_of(own(read_spec(below))) == [
        *("../network.py", "../blocks.py", "../requirements.txt")
    ]


def test_digests_in_the_spec(tmp_path: Path) -> None:
    """The stored spec has them; right ones may stand in a file, and wrong ones are refused."""
    path = write(tmp_path, {"network.py": "x = 1\n"})
    spec = read_spec(path)
    again = parse_spec(spec.canonical())
    assert again == spec
    path.write_text(spec.canonical())
    assert read_spec(path) == spec
    (tmp_path / "network.py").write_text("x = 2\n")
    was, now = own(spec).sha256["network.py"], hashlib.sha256(b"x = 2\n").hexdigest()
    assert fault(path) == (
        f'$.model.sha256.network.py: found "{was}"; the file\'s is {now}; restore the file, or '
        "remove sha256, which is then filled in"
    )


@pytest.mark.parametrize("name", ["network.py", "blocks.py"])
def test_a_resume_refuses_a_changed_file(tmp_path: Path, name: str) -> None:
    """One line names the file, whichever it is; set back, the run can be taken."""
    path = write(tmp_path, {"network.py": "import blocks\n", "blocks.py": "x = 1\n"})
    spec, store = read_spec(path), DirectoryStore(tmp_path / "store")
    claim(store, spec, "small/r", take_over=False, must_exist=False).lease.release()
    before = (tmp_path / name).read_text()
    (tmp_path / name).write_text(before + "# more\n")
    changed = read_spec(path)
    with pytest.raises(InputError) as caught:
        claim(store, changed, "small/r", take_over=False, must_exist=True)
    assert str(caught.value) == (
        f'$.model.sha256.{name}: found "{own(changed).sha256[name]}"; the run began with '
        f'"{own(spec).sha256[name]}"; set it back, or give the run another id'
    )
    (tmp_path / name).write_text(before)
    claim(store, read_spec(path), "small/r", take_over=False, must_exist=True).lease.release()


def test_further_files(tmp_path: Path) -> None:
    """Trained weights, or code that no import statement names: hashed, and they must be there."""
    files = {
        "nets/network.py": "",
        "nets/w.safetensors": "1",
        "nets/a.py": "import b",
        "nets/b.py": "",
    }
    more = {"file": "nets/network.py", "files": ["w.safetensors", "a.py"]}
    path = write(tmp_path, files, **more)
    assert files_of(own(read_spec(path))) == [
        *("nets/network.py", "nets/a.py", "nets/b.py", "nets/w.safetensors")
    ]
    (tmp_path / "nets" / "w.safetensors").unlink()
    assert fault(path) == (
        f"$.model: found {tmp_path}/nets/w.safetensors: No such file or directory; the file must "
        "be there, and readable; correct its path, or chmod +r it"
    )


def test_faults_of_the_files(tmp_path: Path) -> None:
    """No file, no Python in one beside, a package without a version: each is one line."""
    path = write(tmp_path, {})
    assert fault(path) == (
        '$.model.file: found "network.py"; the file must be there; correct the path, which is '
        "relative to the spec"
    )
    (tmp_path / "network.py").write_text("import parts.deep\n")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "deep.py").write_text("x = 1\ny = (\n")
    assert fault(path) == (
        "parts/deep.py:2: found SyntaxError: '(' was never closed; the file must be Python 3.11; "
        "correct the file"
    )
    (tmp_path / "network.py").write_text("")
    (tmp_path / "requirements.txt").write_text(
        "# comment\n--extra-index-url https://mirror/simple\ntimm==1.0.20  # why\n"
        "einops[all]==0.8.1 ; python_version > '3.8'\nsmall @ https://mirror/small.whl\n"
        "safe==1 \\\n  --hash=sha256:00\ntimm\ntimm>=1\ntimm==1.*\n"
    )
    assert fault(path).split("\n") == [
        f'requirements.txt: found "{line}"; each package must have one version; write NAME==…'
        for line in ("timm", "timm>=1", "timm==1.*")
    ]
    (tmp_path / "requirements.txt").write_text(
        "-r more.txt\n-e .\n--index-url https://me:secret@mirror/simple\n"
    )
    *options, login = fault(path).split("\n")
    assert [line.split(";")[0] for line in options] == [
        'requirements.txt: found "-r more.txt"',
        'requirements.txt: found "-e ."',
    ]
    assert login.startswith("requirements.txt: found an address with a login; an image keeps no")
    (tmp_path / "requirements.txt").unlink()
    (tmp_path / "network.py").write_text("x = a" + ".b" * 100_000)
    assert fault(path).startswith("network.py:1: found RecursionError")


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("file", "network.txt", "must be the path of a Python file, such as network.py"),
        ("build", "my build", "must be the name of a function"),
        ("sha256", {"network.py": "00"}, "must be a SHA-256 in hex"),
        ("options", [1], "must be an object"),
        ("hidden", 3, "there is no such key"),
    ],
)
def test_faults_of_the_section(tmp_path: Path, key: str, value: object, line: str) -> None:
    """Its values have their forms, and a key of another kind is none of it."""
    assert line in fault(write(tmp_path, {"network.py": ""}, **{key: value}))
