"""Looking at images in a registry, by the OCI distribution protocol; no docker is needed.

Nothing is pulled but manifests and the image's configuration, which holds platform and labels.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import httpx

from deploy.exits import ERROR, CommandError
from deploy.plan.docker_login import Login, login_for

HUB, HUB_HOST = "docker.io", "registry-1.docker.io"
PLATFORM = {"os": "linux", "architecture": "amd64"}
"""Of RunPod's hosts."""
ACCEPTED = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
TIMEOUT = 30.0
"""Seconds for one answer."""
LONGEST_MESSAGE = 200
LOOPBACK = r"(?:localhost|127(?:\.\d+){3}|\[::1\])(?::\d+)?"
CONFIDENTIAL = re.compile(rf"https://|http://{LOOPBACK}(?:[/?]|$)", re.I)
"""How the address begins of a server that may be sent a login."""


class Denied(CommandError):
    """The registry shows the image to nobody, or not to this user: it does not say which."""


class Limited(CommandError):
    """The registry was asked too often from here; that says nothing of RunPod's hosts."""


class Name(NamedTuple):
    """The parts of an image's reference."""

    registry: str
    """As in docker's configuration: docker.io, ghcr.io, localhost:5000."""
    path: str
    version: str
    """A tag or a digest."""

    @property
    def base_url(self) -> str:
        """Of the registry's API; plain HTTP on the loopback, as with docker."""
        host = HUB_HOST if self.registry == HUB else self.registry
        return f"{'http' if re.fullmatch(LOOPBACK, host) else 'https'}://{host}"


class RegistryImage(NamedTuple):
    """An image for linux/amd64, as a registry has it."""

    reference: str
    """By digest."""
    labels: Mapping[str, str]
    size: int
    """Bytes of its layers, compressed."""


def repository_of(reference: str) -> str:
    """A reference without its tag or digest; a colon before the last slash is a port's."""
    base = reference.partition("@")[0]
    folder, slash, name = base.rpartition("/")
    return f"{folder}{slash}{name.partition(':')[0]}"


def parse(reference: str) -> Name:
    """A reference's parts, with docker's defaults."""
    repository = repository_of(reference)
    rest = reference.removeprefix(repository)
    version = rest.partition("@")[2] or rest.removeprefix(":") or "latest"
    first, slash, path = repository.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        registry = first
    else:
        registry, path = HUB, repository if slash else f"library/{repository}"
    return Name(registry, path, version)


def find_image(reference: str, anonymous: bool = False) -> RegistryImage | None:
    """The image for linux/amd64; None if the registry has no image of this name.

    anonymous: without the credentials of `docker login`, as RunPod's hosts pull. Raises Denied,
    Limited, CommandError.
    """
    name = parse(reference)
    login = None if anonymous else login_for(name.registry)
    try:
        with _Registry(name, reference, login) as registry:
            return registry.image()
    except httpx.InvalidURL:
        why = f"{reference} names no registry that can be asked; correct the reference"
        raise CommandError(ERROR, why) from None


class _Registry:
    """A connection to one repository."""

    def __init__(self, name: Name, reference: str, login: Login | None) -> None:
        self._name, self._reference, self._login = name, reference, login
        self._client = httpx.Client(base_url=name.base_url, timeout=TIMEOUT, follow_redirects=True)
        self._authorization: str | None = None

    def __enter__(self) -> _Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def image(self) -> RegistryImage | None:
        """What `find_image` returns."""
        answer = self._get(f"manifests/{self._name.version}")
        if answer is None:
            return None
        manifest, digest = self._content(answer, self._name.version)
        try:
            return self._image(manifest, digest)
        except (KeyError, TypeError, ValueError, AttributeError):
            why = f"{self._reference} is of a kind that is not known here: no OCI image"
            raise CommandError(ERROR, why) from None

    def _image(self, manifest: dict[str, Any], digest: str) -> RegistryImage:
        if "manifests" in manifest:
            digest = self._of_platform(manifest)
            manifest = self._read("manifests", digest)
        config = self._read("blobs", str(manifest["config"]["digest"]))
        if not PLATFORM.items() <= config.items():
            raise self._other_platform()
        return RegistryImage(
            reference=f"{repository_of(self._reference)}@{digest}",
            labels=(config.get("config") or {}).get("Labels") or {},
            size=sum(int(layer["size"]) for layer in manifest.get("layers", ())),
        )

    def _of_platform(self, index: dict[str, Any]) -> str:
        """The digest of the image for PLATFORM."""
        for entry in index["manifests"]:
            if PLATFORM.items() <= (entry.get("platform") or {}).items():
                return str(entry["digest"])
        raise self._other_platform()

    def _other_platform(self) -> CommandError:
        why = f"{self._reference} is not for linux/amd64, which RunPod's hosts need"
        return CommandError(ERROR, why)

    def _read(self, kind: str, digest: str) -> dict[str, Any]:
        """A manifest or blob that must be there, checked against its digest."""
        answer = self._get(f"{kind}/{digest}")
        if answer is None:
            raise CommandError(ERROR, f"{self._reference} is incomplete: its {kind} are missing")
        return self._content(answer, digest)[0]

    def _content(self, answer: httpx.Response, version: str) -> tuple[dict[str, Any], str]:
        """The JSON of an answer, and its digest."""
        digest = f"sha256:{hashlib.sha256(answer.content).hexdigest()}"
        content = None
        with suppress(ValueError, RecursionError):
            content = answer.json()
        if not isinstance(content, dict) or (":" in version and version != digest):
            why = f"the registry's answer about {self._reference} is damaged; is it a registry?"
            raise CommandError(ERROR, why)
        return content, digest

    # --- requests -------------------------------------------------------------------------------

    def _get(self, path: str) -> httpx.Response | None:
        """The answer; None for a 404."""
        url = f"/v2/{self._name.path}/{path}"
        answer = self._send("GET", url, headers={"Accept": ACCEPTED, **self._headers()})
        if answer.status_code == httpx.codes.UNAUTHORIZED and self._authorization is None:
            self._authorization = self._authorize(answer.headers.get("WWW-Authenticate", ""))
            answer = self._send("GET", url, headers={"Accept": ACCEPTED, **self._headers()})
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        return self._successful(answer)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._authorization} if self._authorization else {}

    def _authorize(self, challenge: str) -> str | None:
        """The header that answers a registry's challenge; None if nothing can."""
        scheme, _, rest = challenge.partition(" ")
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if scheme.lower() == "basic":
            return self._login.basic if self._login else None
        if scheme.lower() != "bearer" or not fields.get("realm"):
            return None
        query = {name: fields[name] for name in ("service", "scope") if name in fields}
        reply = self._successful(self._ask_for_token(fields["realm"], query))
        token = None
        with suppress(ValueError, AttributeError, RecursionError):
            token = reply.json().get("token") or reply.json().get("access_token")
        return f"Bearer {token}" if token else None

    def _ask_for_token(self, realm: str, query: dict[str, str]) -> httpx.Response:
        """The answer of the server that gives tokens; a login is sent there and nowhere else."""
        if self._login is None:
            return self._send("GET", realm, params=query)
        if not CONFIDENTIAL.match(realm):
            why = f"{self._name.registry} wants the login of `docker login` sent to {realm[:100]}"
            raise CommandError(ERROR, f"{why}: it must be https; correct the registry")
        if self._login.identity_token:
            grant = {"grant_type": "refresh_token", "client_id": "evengrad"}
            body = {**query, **grant, "refresh_token": self._login.identity_token}
            return self._send("POST", realm, data=body, follow_redirects=False)
        headers = {"Authorization": self._login.basic}
        return self._send("GET", realm, params=query, headers=headers, follow_redirects=False)

    def _send(self, method: str, url: str, **more: Any) -> httpx.Response:
        try:
            return self._client.request(method, url, **more)
        except httpx.HTTPError as error:
            host, failure = self._name.registry, f"the connection broke ({type(error).__name__})"
            if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                failure = f"no connection to {host}; check name, network and proxy"
            elif isinstance(error, httpx.TimeoutException):
                failure = f"no answer of {host} within {TIMEOUT:g} s"
            why = f"the registry cannot be asked for {self._reference}: {failure}"
            raise CommandError(ERROR, why) from None

    def _successful(self, answer: httpx.Response) -> httpx.Response:
        if answer.is_success:
            return answer
        why = f"the registry refuses {self._reference}: {_message(answer)}"
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise Denied(ERROR, f"{why}; it does not exist, or needs `docker login`")
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise Limited(ERROR, f"{why}; log in with `docker login`, or try again later")
        raise CommandError(ERROR, why)


def _message(answer: httpx.Response) -> str:
    """The registry's own words after the status, in one line."""
    text = ""
    with suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
        body = answer.json()
        first = (body.get("errors") or [body])[0]
        text = str(first.get("message") or first.get("details") or first.get("code") or "")
    status = f"{answer.status_code} {answer.reason_phrase}".strip()
    words = " ".join(text.split())[:LONGEST_MESSAGE]
    return f"{status}: {words}" if words else status
