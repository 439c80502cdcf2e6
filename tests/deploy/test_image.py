"""Images that a real Docker engine builds and pushes to a registry in this process.

The tests marked `container` are run by `make test-container`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.exits import ERROR, CommandError
from deploy.plan import image
from deploy.plan.image import PINNED, build_and_push, build_arguments, content_tag, spec_sha256
from deploy.plan.prepare import prepare
from deploy.plan.registry import Denied, find_image
from deploy.plan.submission import Submission
from deploy.runpod.client import RunPod
from job.bake import bake
from job.errors import InputError
from job.spec.read import read_spec
from tests.support.command import ROOT, environment
from tests.support.image_registry import Registry, serving
from tests.support.simulated_user import RESOURCES, Renting
from tests.support.tiny_job import edited, write

CONTAINER = pytest.mark.container
DIGEST = "sha256:" + "0" * 64
SECRET = "a-secret-that-no-layer-may-hold"
DOCKERFILE = """
FROM debian:bookworm-slim AS cuda
ARG TORCH_CUDA=as-usual
COPY torch.lock requirements.lock small.npz /app/
COPY job /app/job
ARG SPEC
ARG SPEC_SHA256
ARG REVISION
COPY ${SPEC} /job/spec.json
RUN echo "$SPEC_SHA256  /job/spec.json" | sha256sum -c - && echo "$TORCH_CUDA" > /job/torch
LABEL evengrad.spec.sha256=$SPEC_SHA256 org.opencontainers.image.revision=$REVISION

FROM scratch AS another
"""


def docker(*arguments: str, code: int = 0) -> str:
    """What docker prints; fails unless it ends with the code."""
    ended = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=300)
    assert ended.returncode == code, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout in small: all that enters an image, and a Dockerfile that is quick to build."""
    folder = (tmp_path / "context").resolve()
    write(folder, {"resources": RESOURCES})
    (folder / "job").mkdir()
    (folder / "job" / "code.py").write_text("1\n")
    (folder / "torch.lock").write_text("")
    (folder / "requirements.lock").write_text("")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    monkeypatch.setattr(image, "ROOT", folder)
    return folder


@pytest.fixture
def spec(context: Path) -> Path:
    """The spec in it."""
    return context / "spec.json"


@pytest.fixture(scope="module")
def shared() -> Iterator[Registry]:
    """One registry, so that the base image's layers are uploaded once; its images go with it."""
    with serving() as registry:
        yield registry
    found = docker("images", "-q", f"127.0.0.1:{registry.port}/*/*").split()
    if found:
        docker("rmi", "-f", *set(found))


@pytest.fixture
def registry(shared: Registry) -> Iterator[Registry]:
    """It, refusing nothing."""
    yield shared
    shared.login, shared.broken, shared.secretive = None, None, False


@pytest.fixture
def repository(registry: Registry, tmp_path: Path) -> str:
    """A repository of this test alone."""
    name = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]
    return registry.reference(f"me/{name}")


def prepared(
    user: Renting,
    spec: Path,
    repository: str,
    *arguments: str,
    dry: bool = False,
    registry_id: str | None = None,
) -> str:
    """The image that a submission would rent with, prepared as by `deploy.submit`."""
    submission = Submission(
        spec=spec,
        store=user.url,
        repository=repository,
        build_arg=list(arguments),
        registry=registry_id,
        env_file=user.variables,
        rehearsals=str(user.folder / "runs"),
        dry_run=dry,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNPOD_API_URL", user.runpod.url)  # the store is on this machine, as pods are
        made = prepare(submission, lambda: RunPod(user.runpod.key, user.runpod.url))
    assert made.api is not None
    with made.api:
        return made.plan.image


def is_one_line(stop: CommandError) -> bool:
    """Whether a user gets one line, and exit code 1."""
    return stop.code == ERROR and len(str(stop).splitlines()) == 1


# --- building and pushing -------------------------------------------------------------------------


@CONTAINER
def test_what_is_pushed_can_be_pulled(spec: Path, registry: Registry, repository: str) -> None:
    """The digest that is returned is the registry's; pulled by it, the image has labels and spec,
    and nothing but its own stage."""
    reference = content_tag(repository, spec, read_spec(spec))
    found = build_and_push(reference, spec, "abc")
    assert PINNED.fullmatch(found)
    path = repository.partition("/")[2]
    kept = registry.manifests[path, reference.rpartition(":")[2]]
    assert found == f"{repository}@sha256:{hashlib.sha256(kept.data).hexdigest()}"
    for name in (reference, found):
        image_there = find_image(name)
        assert image_there is not None
        assert image_there.reference == found
        assert image_there.labels["evengrad.spec.sha256"] == spec_sha256(spec)

    docker("rmi", "-f", reference)
    docker("pull", found)
    facts = json.loads(docker("image", "inspect", found))[0]
    assert (facts["Os"], facts["Architecture"]) == ("linux", "amd64")
    assert facts["Config"]["Labels"] == {
        "evengrad.spec.sha256": hashlib.sha256(spec.read_bytes()).hexdigest(),
        "org.opencontainers.image.revision": "abc",
    }
    assert docker("run", "--rm", found, "cat", "/job/spec.json") == spec.read_text()


@CONTAINER
def test_nothing_is_built_twice(
    context: Path, spec: Path, user: Renting, registry: Registry, repository: str
) -> None:
    """A dry run builds nothing; the first submission does; the second finds its image in the
    registry, and so does a dry run; other code is another image."""
    assert prepared(user, spec, repository, dry=True).endswith("(to be built and pushed)")
    assert not any(name == repository.partition("/")[2] for name, _ in registry.manifests)
    first = prepared(user, spec, repository)
    assert PINNED.fullmatch(first)

    docker("rmi", "-f", *docker("images", "-q", repository).split())
    before = len(registry.uploaded())
    assert prepared(user, spec, repository) == first
    assert prepared(user, spec, repository, dry=True) == first
    assert len(registry.uploaded()) == before
    assert docker("images", "-q", repository) == ""

    (context / "job" / "code.py").write_text("2\n")
    assert prepared(user, spec, repository) != first
    assert len(registry.uploaded()) > before


@CONTAINER
def test_another_spec_is_another_image(
    context: Path, user: Renting, registry: Registry, repository: str
) -> None:
    """Two specs of one checkout live in one repository side by side."""
    found = []
    for epochs in (1, 2):
        spec = write(context, {"resources": RESOURCES, "train.epochs": epochs}, f"{epochs}.json")
        found.append(prepared(user, spec, repository))
        assert docker("run", "--rm", found[-1], "cat", "/job/spec.json") == spec.read_text()
    assert len(set(found)) == 2


@CONTAINER
def test_build_arguments(spec: Path, user: Renting, repository: str) -> None:
    """They reach the Dockerfile and the tag, and whoever has the image can read them: they are no
    place for secrets."""
    usual = prepared(user, spec, repository)
    other = prepared(user, spec, repository, "TORCH_CUDA=https://mirror/torch.whl")
    assert usual != other
    assert docker("run", "--rm", usual, "cat", "/job/torch") == "as-usual\n"
    assert docker("run", "--rm", other, "cat", "/job/torch") == "https://mirror/torch.whl\n"
    assert "https://mirror/torch.whl" in docker("history", "--no-trunc", other)


@CONTAINER
def test_no_secret_enters_an_image(
    spec: Path,
    user: Renting,
    registry: Registry,
    repository: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither the env file's values, nor the submitter's own, nor the account's key; the spec's
    hash, which does, is where they are looked for."""
    user.variables.write_text(user.variables.read_text() + f"TOKEN='{SECRET}'\n")
    monkeypatch.setenv("MY_TOKEN", f"my-own-{SECRET}")
    found = prepared(user, spec, repository)
    values = [line.split("=", 1)[1].strip("'") for line in user.variables.read_text().splitlines()]
    assert SECRET in values
    texts = [docker("history", "--no-trunc", found), docker("image", "inspect", found)]
    texts += [manifest.data.decode() for manifest in registry.manifests.values()]
    texts += [blob.decode() for blob in registry.blobs.values() if blob.startswith(b"{")]
    everything = "\n".join(texts)
    assert everything.count(hashlib.sha256(spec.read_bytes()).hexdigest()) >= 3
    for value in (*values, user.runpod.key):
        assert value not in everything


@CONTAINER
def test_build_that_fails(
    context: Path,
    spec: Path,
    registry: Registry,
    repository: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One line and exit code 1 after the build's own words; nothing is pushed."""
    words = "RUN echo the-reason-is-this >&2; exit 3"
    (context / "Dockerfile").write_text(DOCKERFILE.replace("LABEL", f"{words}\nLABEL"))
    before = len(registry.asked)
    with pytest.raises(CommandError) as caught:
        build_and_push(f"{repository}:x", spec, "abc")
    assert is_one_line(caught.value)
    assert str(caught.value) == "docker build failed with exit code 1; see its output"
    output = capfd.readouterr()
    assert "the-reason-is-this" in output.err
    assert output.out == ""
    assert len(registry.asked) == before


@CONTAINER
@pytest.mark.parametrize("status", [401, 500])
def test_push_that_is_refused(
    spec: Path,
    registry: Registry,
    repository: str,
    status: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Without the credentials, and by a registry that fails; docker's output leaves stdout to the
    command's JSON."""
    if status == 401:
        registry.login = "me:password"
    else:
        registry.broken = "^PUT .*/manifests/"
    with pytest.raises(CommandError) as caught:
        build_and_push(f"{repository}:x", spec, "abc")
    assert is_one_line(caught.value)
    assert str(caught.value).startswith("docker push failed with exit code 1")
    assert registry.asked[-1].status == status
    output = capfd.readouterr()
    assert "The push refers to repository" in output.err
    assert output.out == ""
    assert (repository.partition("/")[2], "x") not in registry.manifests


@CONTAINER
def test_credentials_of_docker_login(
    spec: Path,
    user: Renting,
    registry: Registry,
    repository: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What `docker login` has stored opens the registry for looking, pushing and looking again; a
    private image needs the id of credentials at RunPod too."""
    registry.login = "me:password"
    auth = base64.b64encode(registry.login.encode()).decode()
    stored = {"auths": {f"127.0.0.1:{registry.port}": {"auth": auth}}}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(CommandError, match="is private, and RunPod's hosts pull it without"):
        prepared(user, spec, repository)
    found = prepared(user, spec, repository, registry_id="reg1")
    assert prepared(user, spec, repository, registry_id="reg1") == found
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(Denied, match="needs `docker login`"):
        find_image(found)


@CONTAINER
def test_repository_that_the_first_push_makes(
    spec: Path, user: Renting, registry: Registry, repository: str
) -> None:
    """Docker Hub denies one that is not there yet, as it denies a private one: pushing tells."""
    registry.secretive = True
    assert "needs `docker login`" in prepared(user, spec, repository, dry=True)
    assert PINNED.fullmatch(prepared(user, spec, repository))


# --- without docker -------------------------------------------------------------------------------


def test_no_docker_client(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Building needs docker, and the error names the other way; looking at images does not."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("docker") is None
    with pytest.raises(CommandError) as building:
        build_and_push("me/it:x", spec, "abc")
    assert "no docker here" in str(building.value)
    assert str(building.value).endswith("name one by --image")
    assert is_one_line(building.value)


@pytest.mark.parametrize("name", ["small.npz", "Dockerfile", "torch.lock", "requirements.lock"])
def test_files_that_are_missing(spec: Path, context: Path, name: str) -> None:
    """The spec's data, or a part of the checkout: an error before anything is built."""
    (context / name).unlink()
    with pytest.raises(InputError) as caught:
        content_tag("me/it", spec, read_spec(spec))
    assert str(caught.value).startswith(f"{context / name}: found no such file;")


def test_a_folder_of_shards_is_not_baked(spec: Path, context: Path) -> None:
    """An image holds files; the fault says where a folder belongs."""
    (context / "small.npz").unlink()
    (context / "small.npz").mkdir()
    with pytest.raises(InputError, match=r"found a folder of shards; .*s3://bucket/prefix/"):
        content_tag("me/it", spec, read_spec(spec))
    with pytest.raises(InputError, match=r"small\.npz: found a folder of shards"):
        bake(spec, context / "out", {})


def test_arguments_are_content(spec: Path) -> None:
    """Other build arguments make another tag; their order does not."""
    job = read_spec(spec)
    one = {"TORCH_CUDA": "a", "PYTHON": "b"}
    assert content_tag("me/it", spec, job, one) == content_tag(
        "me/it", spec, job, dict(reversed(one.items()))
    )
    others = [{}, one, {"TORCH_CUDA": "a"}, {"TORCH_CUDA": "b", "PYTHON": "a"}]
    assert len({content_tag("me/it", spec, job, other) for other in others}) == len(others)


@pytest.mark.parametrize(
    "name", ["job/top.py", "job/wing/module.py", "job/wing/deep/module.py", "job/wing/assets/x.js"]
)
def test_code_at_any_depth_is_content(spec: Path, context: Path, name: str) -> None:
    """A new or changed file of the code, however deep, is another tag."""
    (context / name).parent.mkdir(parents=True, exist_ok=True)
    tags = [content_tag("me/it", spec, read_spec(spec))]
    for content in ("1\n", "2\n"):
        (context / name).write_text(content)
        tags.append(content_tag("me/it", spec, read_spec(spec)))
    assert len(set(tags)) == 3


def test_a_network_of_ones_own_is_content(spec: Path, context: Path) -> None:
    """Its file, those that it imports from beside and its requirements; no other file, and none of
    them is run."""
    model = {"kind": "python", "file": "network.py"}
    spec.write_text(json.dumps(edited({"model": model, "resources": RESOURCES})))
    texts = {"network.py": "import blocks\nraise SystemExit\n", "blocks.py": "", "other.py": ""}
    for name, text in texts.items():
        (context / name).write_text(text)
    tags = [content_tag("me/it", spec, read_spec(spec))]
    for name in ("network.py", "blocks.py", "requirements.txt"):
        with (context / name).open("a") as file:
            file.write("# more\n")
        tags.append(content_tag("me/it", spec, read_spec(spec)))
    assert len(set(tags)) == 4
    (context / "other.py").write_text("1\n")
    assert content_tag("me/it", spec, read_spec(spec)) == tags[-1]


def test_code_where_the_build_does_not_look(spec: Path, context: Path) -> None:
    """Code lies at the checkout's top, or anywhere in docker/."""
    for folder, seen in (("docker/nets", True), ("nets", False)):
        (context / folder).mkdir(parents=True)
        (context / folder / "network.py").write_text("")
        model = {"kind": "python", "file": f"{folder}/network.py"}
        spec.write_text(json.dumps(edited({"model": model, "resources": RESOURCES})))
        if seen:
            content_tag("me/it", spec, read_spec(spec))
        else:
            with pytest.raises(InputError, match="the build sees nothing else"):
                content_tag("me/it", spec, read_spec(spec))


def test_all_code_is_content() -> None:
    """The tag covers every file of job/ that an image holds."""
    held = {path for path in (ROOT / "job").rglob("*") if path.is_file()}
    held -= {path for path in held if "__pycache__" in path.parts}
    covered = {path for kind in image.CODE for path in (ROOT / "job").rglob(kind)}
    assert held == covered


def test_the_base_image_is_named_by_digest() -> None:
    """What is built for rented machines does not change with a tag that moves."""
    assert PINNED.fullmatch(build_arguments([])["PYTHON"].replace(":3.11-slim-bookworm", ""))
    declared = (ROOT / "Dockerfile").read_text()
    assert f"ARG PYTHON={build_arguments([])['PYTHON'].partition('@')[0]}\n" in declared


def test_arguments_of_the_dockerfile() -> None:
    """Those that evengrad's own Dockerfile declares for users, with any value, the last one of a
    name; others, and those that describe the image, are refused without printing a value."""
    given = ["TORCH_INDEX=https://mirror/simple?a=b", "TORCH_CUDA=x", "TORCH_CUDA="]
    arguments = {"TORCH_INDEX": "https://mirror/simple?a=b", "TORCH_CUDA": ""}
    assert build_arguments(given) == image.base_image() | arguments
    assert build_arguments(["PYTHON=mirror/python"]) == {"PYTHON": "mirror/python"}
    wrong = ["TORCH_CUD=value", "REVISION=value", "CUDA_VERSION=value", "PYTHON", "=value"]
    with pytest.raises(InputError) as caught:
        build_arguments(["PYTHON=mirror/python", *wrong])
    assert len(caught.value.faults) == len(wrong)
    assert "value" not in str(caught.value).lower().replace("name=value", "")
    assert "takes NAME=VALUE for PYTHON, TORCH_CUDA, TORCH_INDEX;" in str(caught.value)


@pytest.mark.parametrize("other", [["spec.json", "--image", f"me/it@{DIGEST}"], ["--resume", "r"]])
def test_arguments_where_nothing_is_built(other: list[str]) -> None:
    """They would have no effect, so it is an error of usage."""
    command = [sys.executable, "-m", "deploy.submit", *other, "--build-arg", "TORCH_CUDA=x"]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 2
    assert "--build-arg is for building" in ended.stderr
