"""Images that a real Docker engine builds and pushes to a registry of the test's own.

The tests marked `container` are run by `make test-container`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import image
from deploy.ends import ERROR, Stop
from deploy.image import PINNED, Denied, build_and_push, build_arguments, pinned, tag
from deploy.prepare import prepare
from deploy.runpod_api import RunPod
from job.faults import InputError
from job.read_spec import read_spec
from tests.command import ROOT, environment
from tests.registry import DOCKER_LIST, INDEX, Registry, serving
from tests.renting import RESOURCES, Renting
from tests.small import write

CONTAINER = pytest.mark.container
DIGEST = "sha256:" + "0" * 64
SECRET = "a-secret-that-no-layer-may-hold"
DOCKERFILE = """
FROM debian:bookworm-slim AS cuda
ARG TORCH_CUDA=as-usual
COPY pyproject.toml constraints.txt small.npz /app/
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
    (folder / "pyproject.toml").write_text("")
    (folder / "constraints.txt").write_text("")
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


def prepared(user: Renting, spec: Path, repository: str, *arguments: str, dry: bool = False) -> str:
    """The image that a submission would rent with, all made ready as `deploy.submit` does."""
    made = prepare(
        spec=spec,
        resume=None,
        store=user.url,
        repository=repository,
        image=None,
        build_arguments=arguments,
        registry=None,
        env_file=user.variables,
        rehearsals=str(user.folder / "runs"),
        dry_run=dry,
        offline=False,
        connect=lambda: RunPod(user.runpod.key, user.runpod.url),
    )
    assert made.api is not None
    with made.api:
        return made.plan.image


def is_one_line(stop: Stop) -> bool:
    """Whether a user gets one line, and exit code 1."""
    return stop.code == ERROR and len(str(stop).splitlines()) == 1


# --- building and pushing -------------------------------------------------------------------------


@CONTAINER
def test_what_is_pushed_can_be_pulled(spec: Path, registry: Registry, repository: str) -> None:
    """The digest that is returned is the registry's; pulled by it, the image has labels and spec,
    and nothing but its own stage."""
    reference = tag(repository, spec, read_spec(spec))
    found = build_and_push(reference, spec, "abc")
    assert PINNED.fullmatch(found)
    name = repository.partition("/")[2]
    kept = registry.manifests[name, reference.rpartition(":")[2]]
    assert found == f"{repository}@sha256:{hashlib.sha256(kept.data).hexdigest()}"
    assert pinned(reference) == pinned(found) == found

    docker("rmi", "-f", reference)
    docker("pull", found)
    told = json.loads(docker("image", "inspect", found))[0]
    assert (told["Os"], told["Architecture"]) == ("linux", "amd64")
    assert told["Config"]["Labels"] == {
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
    """Neither the env file's values, nor the submitter's own, nor the account's key; what was meant
    to enter is found where they are looked for."""
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
    with pytest.raises(Stop) as caught:
        build_and_push(f"{repository}:x", spec, "abc")
    assert is_one_line(caught.value)
    assert str(caught.value) == "docker build failed with exit code 1; see its output"
    said = capfd.readouterr()
    assert "the-reason-is-this" in said.err
    assert said.out == ""
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
    """Without the credentials, and by a registry that cannot keep what it is given; what docker
    says of it leaves stdout to the command's JSON."""
    if status == 401:
        registry.login = "me:password"
    else:
        registry.broken = "^PUT .*/manifests/"
    with pytest.raises(Stop) as caught:
        build_and_push(f"{repository}:x", spec, "abc")
    assert is_one_line(caught.value)
    assert str(caught.value).startswith("docker push failed with exit code 1")
    assert registry.asked[-1].status == status
    said = capfd.readouterr()
    assert "The push refers to repository" in said.err
    assert said.out == ""
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
    """What `docker login` has stored opens the registry for looking, pushing and looking again."""
    registry.login = "me:password"
    auth = base64.b64encode(registry.login.encode()).decode()
    stored = {"auths": {f"127.0.0.1:{registry.port}": {"auth": auth}}}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    found = prepared(user, spec, repository)
    assert prepared(user, spec, repository) == found
    monkeypatch.delenv("DOCKER_CONFIG")
    with pytest.raises(Denied, match="may require authorization"):
        pinned(found)


@CONTAINER
def test_repository_that_the_first_push_makes(
    spec: Path, user: Renting, registry: Registry, repository: str
) -> None:
    """Docker Hub denies one that is not there yet, as it denies a private one: pushing tells."""
    registry.secretive = True
    assert "may require authorization" in prepared(user, spec, repository, dry=True)
    assert PINNED.fullmatch(prepared(user, spec, repository))


# --- looking --------------------------------------------------------------------------------------


@CONTAINER
def test_the_image_for_rented_machines(registry: Registry, repository: str) -> None:
    """Of several platforms, amd64's is named; for others alone it is refused."""
    name = repository.partition("/")[2]
    arm = registry.put_image(name, "arm64", "arm64")
    amd = registry.put_image(name, "amd64", "amd64")
    told = registry.put_image(name, "provenance", "unknown")
    listed = f"{repository}@{registry.put_index(name, 'docker', DOCKER_LIST, arm64=arm)}"
    registry.put_index(name, "oci", INDEX, arm64=arm, unknown=told)
    for reference in (f"{repository}:arm64", f"{repository}:docker", f"{repository}:oci", listed):
        with pytest.raises(Stop, match="is not for linux/amd64") as caught:
            pinned(reference)
        assert is_one_line(caught.value)
    registry.put_index(name, "all", INDEX, arm64=arm, amd64=amd, unknown=told)
    registry.put_index(name, "built", INDEX, amd64=amd, unknown=told)
    for reference in ("all", "built", "amd64"):
        assert pinned(f"{repository}:{reference}") == f"{repository}@{amd['digest']}"


@CONTAINER
def test_what_is_not_there(registry: Registry, repository: str) -> None:
    """Only a registry that says so has no such image; one that fails or denies does not say so."""
    registry.put_image(repository.partition("/")[2], "there", "amd64")
    assert pinned(f"{repository}:absent") is None
    assert pinned(f"{repository}@{DIGEST}") is None
    assert pinned(f"{repository}-of-nobody:absent") is None
    registry.broken = "/manifests/"
    with pytest.raises(Stop, match="500 Internal Server Error") as caught:
        pinned(f"{repository}:there")
    assert is_one_line(caught.value)
    assert not isinstance(caught.value, Denied)
    registry.login, registry.broken = "me:password", None
    with pytest.raises(Denied) as denied:
        pinned(f"{repository}:there")
    assert is_one_line(denied.value)


def unused() -> int:
    """A port of the loopback where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@CONTAINER
def test_credentials_that_cannot_be_had(
    registry: Registry, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential helper that is "not found" is no image that is not found."""
    registry.login = "me:password"
    (tmp_path / "config.json").write_text('{"credsStore": "of-nobody"}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(Stop, match=r"docker-credential-of-nobody.*not found") as caught:
        pinned(f"{repository}:x")
    assert is_one_line(caught.value)


@CONTAINER
def test_registry_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody at its address is told at once; one that is silent, once the time is over."""
    with pytest.raises(Stop, match="connection refused") as caught:
        pinned(f"127.0.0.1:{unused()}/me/it:x")
    assert is_one_line(caught.value)
    monkeypatch.setattr(image, "SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reference = f"127.0.0.1:{silent.getsockname()[1]}/me/it:x"
        begun = time.monotonic()
        with pytest.raises(Stop, match=f"no answer about {reference} within 2 s") as caught:
            pinned(reference)
        assert time.monotonic() - begun < 10
    assert is_one_line(caught.value)


# --- without docker -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "repository"),
    [
        ("evengrad", "evengrad"),
        ("me/it:tag", "me/it"),
        ("docker.io/me/it", "docker.io/me/it"),
        ("localhost:5000/it", "localhost:5000/it"),
        ("localhost:5000/me/it:tag", "localhost:5000/me/it"),
        (f"localhost:5000/me/it@{DIGEST}", "localhost:5000/me/it"),
        (f"localhost:5000/me/it:tag@{DIGEST}", "localhost:5000/me/it"),
    ],
)
def test_repository_of_a_reference(reference: str, repository: str) -> None:
    """Without tag and digest; a port's colon stays."""
    assert image._repository(reference) == repository


def test_no_docker_client(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be done instead is said, whether an image is looked for or built."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("docker") is None
    with pytest.raises(Stop) as looking:
        pinned("me/it:x")
    with pytest.raises(Stop) as building:
        build_and_push("me/it:x", spec, "abc")
    assert str(looking.value) == str(building.value)
    assert "no docker here" in str(looking.value)
    assert str(looking.value).endswith("name one by --image")
    assert is_one_line(looking.value)


@pytest.mark.parametrize("name", ["small.npz", "Dockerfile", "constraints.txt"])
def test_files_that_are_missing(spec: Path, context: Path, name: str) -> None:
    """The spec's data, or a part of the checkout: told before anything is built."""
    (context / name).unlink()
    with pytest.raises(InputError) as caught:
        tag("me/it", spec, read_spec(spec))
    assert str(caught.value).startswith(f"{context / name}: found no such file;")


def test_arguments_are_content(spec: Path) -> None:
    """Other build arguments are another tag; their order is not."""
    job = read_spec(spec)
    one = {"TORCH_CUDA": "a", "PYTHON": "b"}
    assert tag("me/it", spec, job, one) == tag("me/it", spec, job, dict(reversed(one.items())))
    others = [{}, one, {"TORCH_CUDA": "a"}, {"TORCH_CUDA": "b", "PYTHON": "a"}]
    assert len({tag("me/it", spec, job, other) for other in others}) == len(others)


def test_arguments_of_the_dockerfile() -> None:
    """Those that evengrad's own Dockerfile declares for users, with any value, the last one of a
    name; others, and what says what the image is, are refused without telling a value."""
    given = ["TORCH_INDEX=https://mirror/simple?a=b", "TORCH_CUDA=x", "TORCH_CUDA="]
    assert build_arguments(given) == {"TORCH_INDEX": "https://mirror/simple?a=b", "TORCH_CUDA": ""}
    wrong = ["TORCH_CUD=value", "REVISION=value", "CUDA_VERSION=value", "PYTHON", "=value"]
    with pytest.raises(InputError) as caught:
        build_arguments(["PYTHON=mirror/python", *wrong])
    assert len(caught.value.faults) == len(wrong)
    assert "value" not in str(caught.value).lower().replace("name=value", "")
    assert "takes NAME=VALUE for PYTHON, TORCH_CUDA, TORCH_INDEX;" in str(caught.value)


@pytest.mark.parametrize("other", [["spec.json", "--image", f"me/it@{DIGEST}"], ["--resume", "r"]])
def test_arguments_where_nothing_is_built(other: list[str]) -> None:
    """They would be without effect, so it is a fault of usage."""
    command = [sys.executable, "-m", "deploy.submit", *other, "--build-arg", "TORCH_CUDA=x"]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert "--build-arg is for building" in ended.stderr
