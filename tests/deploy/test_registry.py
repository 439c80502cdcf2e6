"""Images are asked for in their registry before anything is rented for them."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.exits import ERROR, INVALID, CommandError
from deploy.plan import image as images
from deploy.plan import registry as registries
from deploy.plan.image import check_image, spec_sha256
from deploy.plan.registry import Denied, Limited, Name, find_image, parse, repository_of
from tests.support.image_registry import DOCKER_LIST, INDEX, Registry, serving
from tests.support.simulated_user import Renting

DIGEST = "sha256:" + "0" * 64
NAME = "me/it"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """An empty registry, and no credentials of this machine's own."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    with serving() as served:
        yield served


@pytest.fixture
def repository(registry: Registry) -> str:
    """Its repository, as docker names it."""
    return registry.reference(NAME)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A spec's file."""
    path = tmp_path / "spec.json"
    path.write_text('{"name": "small"}\n')
    return path


def log_in(tmp_path: Path, **config: object) -> None:
    """What `docker login` leaves."""
    (tmp_path / "docker").mkdir(exist_ok=True)
    (tmp_path / "docker" / "config.json").write_text(json.dumps(config))


def stored(registry: Registry, login: str) -> dict[str, object]:
    """A login as docker stores it in its own file."""
    auth = base64.b64encode(login.encode()).decode()
    return {"auths": {f"127.0.0.1:{registry.port}": {"auth": auth}}}


def is_one_line(error: CommandError) -> bool:
    """Whether a user gets one line."""
    return len(str(error).splitlines()) == 1


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "repository", "name"),
    [
        ("evengrad", "evengrad", Name("docker.io", "library/evengrad", "latest")),
        ("me/it:tag", "me/it", Name("docker.io", "me/it", "tag")),
        ("docker.io/me/it", "docker.io/me/it", Name("docker.io", "me/it", "latest")),
        ("ghcr.io/me/it:1", "ghcr.io/me/it", Name("ghcr.io", "me/it", "1")),
        ("localhost:5000/it", "localhost:5000/it", Name("localhost:5000", "it", "latest")),
        (f"localhost:5000/me/it@{DIGEST}", "localhost:5000/me/it",
         Name("localhost:5000", "me/it", DIGEST)),
        (f"a.b:5000/me/it:tag@{DIGEST}", "a.b:5000/me/it", Name("a.b:5000", "me/it", DIGEST)),
    ],
)  # fmt: skip
def test_names_as_docker_reads_them(reference: str, repository: str, name: Name) -> None:
    """Docker Hub is the default registry, a port's colon begins no tag, a digest counts most."""
    assert repository_of(reference) == repository
    assert parse(reference) == name


def test_addresses() -> None:
    """TLS everywhere but on the loopback; docker.io's API has an address of its own."""
    urls = [parse(f"{host}/me/it").base_url for host in ("docker.io", "ghcr.io", "127.0.0.1:5000")]
    assert urls == ["https://registry-1.docker.io", "https://ghcr.io", "http://127.0.0.1:5000"]


# --- looking --------------------------------------------------------------------------------------


def test_the_image_for_rented_machines(registry: Registry, repository: str) -> None:
    """Of several platforms amd64's is taken, with its labels; an image for others is refused."""
    arm = registry.put_image(NAME, "arm64", "arm64")
    amd = registry.put_image(NAME, "amd64", "amd64", **{"evengrad.spec.sha256": "abc"})
    provenance = registry.put_image(NAME, "provenance", "unknown")
    digest = registry.put_index(NAME, "docker", DOCKER_LIST, arm64=arm)
    registry.put_index(NAME, "oci", INDEX, arm64=arm, unknown=provenance)
    for version in (":arm64", ":docker", ":oci", f"@{digest}"):
        with pytest.raises(CommandError, match="is not for linux/amd64") as caught:
            find_image(repository + version)
        assert is_one_line(caught.value)
    registry.put_index(NAME, "all", INDEX, arm64=arm, amd64=amd, unknown=provenance)
    registry.put_index(NAME, "built", INDEX, amd64=amd, unknown=provenance)
    for tag in ("all", "built", "amd64"):
        image = find_image(f"{repository}:{tag}")
        assert image is not None
        assert image.reference == f"{repository}@{amd['digest']}"
        assert image.labels == {"evengrad.spec.sha256": "abc"}


def test_what_is_not_there(registry: Registry, repository: str) -> None:
    """Only a registry that says so has no such image; one that fails or denies does not say so."""
    registry.put_image(NAME, "there", "amd64")
    for absent in (":absent", f"@{DIGEST}", "-of-nobody:absent"):
        assert find_image(repository + absent) is None
    registry.broken = "/manifests/"
    with pytest.raises(CommandError, match="500 Internal Server Error: unknown") as caught:
        find_image(f"{repository}:there")
    assert is_one_line(caught.value)
    assert not isinstance(caught.value, Denied)
    registry.login, registry.broken = "me:password", None
    with pytest.raises(Denied, match="401 Unauthorized: unauthorized"):
        find_image(f"{repository}:there")
    registry.limited = True
    with pytest.raises(Limited, match="429 Too Many Requests: toomanyrequests"):
        find_image(f"{repository}:there")


@pytest.mark.parametrize("tokens", [False, True], ids=["basic", "token"])
def test_credentials_of_docker_login(
    registry: Registry, repository: str, tmp_path: Path, tokens: bool
) -> None:
    """They open a private registry, at once or for a token; anonymously it stays shut."""
    registry.put_image(NAME, "it", "amd64")
    registry.login, registry.tokens = "me:password", tokens
    log_in(tmp_path, **stored(registry, "me:wrong"))
    with pytest.raises(Denied):
        find_image(f"{repository}:it")
    log_in(tmp_path, **stored(registry, "me:password"))
    assert find_image(f"{repository}:it") is not None
    with pytest.raises(Denied):
        find_image(f"{repository}:it", anonymous=True)


@pytest.mark.parametrize("kind", ["auth", "identitytoken"])
@pytest.mark.parametrize("how", ["realm", "moved"])
def test_a_login_goes_nowhere_else(
    registry: Registry, repository: str, tmp_path: Path, kind: str, how: str
) -> None:
    """A registry cannot have it sent in the clear, nor to where its token server points."""
    registry.put_image(NAME, "it", "amd64")
    registry.login, registry.tokens = "me:password", True
    log_in(tmp_path, auths={f"127.0.0.1:{registry.port}": {kind: "bWU6cGFzc3dvcmQ="}})
    with serving() as thief:
        setattr(registry, how, f"http://0.0.0.0:{thief.port}/token")
        with pytest.raises(CommandError, match=r"must be https|307") as caught:
            find_image(f"{repository}:it")
        assert thief.asked == []
    assert is_one_line(caught.value)


@pytest.mark.parametrize(
    ("realm", "may"),
    [
        ("https://auth.docker.io/token", True),
        ("http://localhost:5001/token", True),
        ("http://127.0.0.1", True),
        ("http://[::1]:5001?service=x", True),
        ("http://auth.docker.io/token", False),
        ("http://localhost.evil.org/token", False),
        ("http://localhost:80@evil.org/token", False),
        ("//evil.org/token", False),
        ("/token", False),
    ],
)
def test_where_a_login_may_go(realm: str, may: bool) -> None:
    """By https, and on this machine."""
    assert bool(registries.CONFIDENTIAL.match(realm)) == may


def test_credentials_of_a_helper(
    registry: Registry, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docker-credential-NAME is asked; one that is not installed, or is silent, is named."""
    registry.put_image(NAME, "it", "amd64")
    registry.login = "me:password"
    log_in(tmp_path, credsStore="of-this-test")
    with pytest.raises(CommandError, match=r"docker-credential-of-this-test.* is not installed"):
        find_image(f"{repository}:it")
    helper = tmp_path / "docker-credential-of-this-test"
    helper.write_text('#!/bin/sh\necho \'{"Username": "me", "Secret": "password"}\'\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert find_image(f"{repository}:it") is not None
    helper.write_text("#!/bin/sh\necho nonsense\n")
    with pytest.raises(CommandError, match="gives no usable answer") as caught:
        find_image(f"{repository}:it")
    assert is_one_line(caught.value)
    helper.write_text("#!/bin/sh\necho credentials not found; exit 1\n")
    with pytest.raises(Denied):
        find_image(f"{repository}:it")


def test_a_configuration_of_docker_that_is_broken(repository: str, tmp_path: Path) -> None:
    """It is named, and none of what stands in it."""
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text('{"auths": "c2VjcmV0"')
    with pytest.raises(CommandError, match=r"config\.json is not docker's configuration") as caught:
        find_image(f"{repository}:it")
    assert "c2VjcmV0" not in str(caught.value)


def test_manifests_that_are_damaged(registry: Registry, repository: str) -> None:
    """Another content than the digest says, no JSON, or no image: an error, never an image."""
    entry = registry.put_image(NAME, "it", "amd64")
    key = (NAME, str(entry["digest"]))
    registry.manifests[key] = registry.manifests[key]._replace(data=b'{"layers": []}')
    with pytest.raises(CommandError, match="is damaged"):
        find_image(f"{repository}@{entry['digest']}")
    registry.manifests[NAME, "it"] = registry.manifests[NAME, "it"]._replace(data=b"<html>")
    with pytest.raises(CommandError, match="is damaged"):
        find_image(f"{repository}:it")
    registry.put(NAME, "odd", INDEX, {"schemaVersion": 1, "fsLayers": []})
    with pytest.raises(CommandError, match="no OCI image"):
        find_image(f"{repository}:odd")


def test_a_registry_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody at its address, silence, and a name that is none: one line each."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(registries, "TIMEOUT", 0.2)
        with pytest.raises(CommandError, match=f"no answer of {address} within 0.2 s"):
            find_image(f"{address}/me/it:x")
    with pytest.raises(CommandError, match=f"no connection to {address}"):
        find_image(f"{address}/me/it:x")
    with pytest.raises(CommandError, match="correct the reference"):
        find_image("a.b:port/me/it:x")


# --- before renting -------------------------------------------------------------------------------


def check(reference: str, spec: Path | None, registry_id: str | None = None) -> list[str]:
    """The warnings of a check that passes."""
    warnings: list[str] = []
    specs = [] if spec is None else [spec_sha256(spec)]
    check_image(reference, specs, registry_id, warnings.append)
    return warnings


def test_the_label_must_be_the_specs(registry: Registry, repository: str, spec: Path) -> None:
    """An image with another spec, or that does not say which, is refused, if it matters
    which one."""
    registry.put_image(NAME, "mine", "amd64", **{"evengrad.spec.sha256": spec_sha256(spec)})
    registry.put_image(NAME, "other", "amd64", **{"evengrad.spec.sha256": "f" * 64})
    registry.put_image(NAME, "none", "amd64", **{"evengrad.spec.sha256": "see /job/build.json"})
    assert check(f"{repository}:mine", spec) == []
    for tag, why in (("other", "holds another spec, ffffffffffff…"), ("none", "does not say its")):
        assert check(f"{repository}:{tag}", None) == []
        with pytest.raises(CommandError, match=why) as caught:
            check(f"{repository}:{tag}", spec)
        assert caught.value.code == INVALID
        assert spec_sha256(spec)[:12] in str(caught.value)


def test_images_that_hosts_cannot_pull(registry: Registry, repository: str, tmp_path: Path) -> None:
    """A missing one; and a private one, unless RunPod has credentials for it."""
    with pytest.raises(CommandError, match=r"does not have .*:absent; push it") as caught:
        check(f"{repository}:absent", None)
    assert caught.value.code == ERROR
    registry.put_image(NAME, "it", "amd64")
    registry.login = "me:password"
    with pytest.raises(Denied):
        check(f"{repository}:it", None)
    log_in(tmp_path, **stored(registry, "me:password"))
    with pytest.raises(CommandError, match="is private, and RunPod's hosts pull it without") as no:
        check(f"{repository}:it", None)
    assert "--registry" in str(no.value)
    assert check(f"{repository}:it", None, "reg1") == []


def test_images_that_cannot_be_checked_from_here(
    registry: Registry, repository: str, tmp_path: Path
) -> None:
    """If RunPod may be able to pull it all the same there is a warning, and no refusal."""
    registry.put_image(NAME, "it", "amd64")
    registry.login = "me:password"
    (warning,) = check(f"{repository}:it", None, "reg1")
    assert "is not checked" in warning
    registry.limited = True
    (warning,) = check(f"{repository}:it", None)
    assert "429" in warning


def test_a_registry_that_hosts_enter_by_a_delegation(
    registry: Registry, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That nobody is logged in here, or no more, is then no refusal; that it has no such image is,
    once somebody may look."""
    monkeypatch.setattr(images, "DELEGATING", "127.0.0.1")
    registry.put_image(NAME, "it", "amd64")
    registry.login = "me:password"
    for login in (None, "me:expired"):
        if login is not None:
            log_in(tmp_path, **stored(registry, login))
        (warning,) = check(f"{repository}:it", None)
        assert "is not checked" in warning
    log_in(tmp_path, **stored(registry, "me:password"))
    assert check(f"{repository}:it", None) == []
    with pytest.raises(CommandError, match="does not have"):
        check(f"{repository}:absent", None)


# --- by the commands ------------------------------------------------------------------------------


def test_a_bad_image_costs_nothing(user: Renting) -> None:
    """`submit` refuses it before it asks for a pod; a dry run lists it, and `doctor` fails."""
    good, other = user.image, user.spec.with_name("other.json")
    other.write_text(user.spec.read_text())
    user.image = f"{user.registry.reference('me/evengrad')}@{DIGEST}"
    submitted = user.submit()
    assert submitted.wait() == ERROR, submitted.err
    assert "does not have" in submitted.err
    dry = user.submit("--dry-run")
    assert dry.wait() == 0, dry.err
    assert "still missing" in dry.out
    looked = user.done("doctor", user.spec, "--image", user.image, "--json")
    (image,) = [c for c in json.loads(looked.out)["checks"] if c["name"] == "image"]
    assert (looked.code, image["ok"]) == (ERROR, False)
    user.image = good
    other.write_text(user.spec.read_text() + "\n")
    user.spec = other
    submitted = user.submit()
    assert submitted.wait() == INVALID, submitted.err
    assert "holds another spec" in submitted.err
    assert user.pods == []


@pytest.mark.slow
def test_another_image_for_a_resumed_run(user: Renting) -> None:
    """It must hold the run's spec, as its file or as the store has it; the record names the image
    of the newest pod, which a pod that goes on keeps."""
    user.write(**{"train.epochs": 100_000})
    first, spec = user.image, user.spec.read_text()
    submitted = user.submit("--detach")
    assert submitted.wait() == 0, submitted.err
    user.write(**{"train.epochs": 99_999})
    refused = user.resume(user.run_id, "--image", user.image)
    assert refused.wait() == INVALID, refused.err
    assert "holds another spec" in refused.err

    stored = user.store.get(f"small/{user.run_id}/spec.json").data
    user.spec.write_bytes(stored)
    assert stored.decode() != spec
    second = user.push(user.spec, user.spec)
    resumed = user.resume(user.run_id, "--image", second, "--registry", "reg1", "--detach")
    assert resumed.wait() == 0, resumed.err
    assert f"goes on in {first}; the image that you name is for the next pod" in resumed.err
    assert (user.record["image"], user.record["registry"]) == (first, None)

    user.runpod.kill_host(user.pods[0].id, "vanishes")
    resumed = user.resume(user.run_id, "--image", second, "--registry", "reg1", "--detach")
    assert resumed.wait() == 0, resumed.err
    assert [pod.body["image"] for pod in user.pods] == [first, second]
    assert (user.record["image"], user.record["registry"]) == (second, "reg1")
