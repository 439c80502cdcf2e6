"""A registry for container images in this process, on the loopback: the OCI distribution protocol.

Docker speaks plain HTTP to the loopback, so no certificate is needed. Blobs belong to the whole
registry, as if every repository had been mounted into every other.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
TOKEN = "a-token-of-this-registry"
NAME = r"/v2/([a-z0-9][a-z0-9._/-]*)"


class Asked(NamedTuple):
    """A request, and how it was answered."""

    method: str
    path: str
    status: int


class Manifest(NamedTuple):
    """What a tag or a digest names."""

    kind: str
    data: bytes


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


class Registry:
    """The images that were pushed, the requests so far, and which ones are refused."""

    def __init__(self) -> None:
        self.port = 0
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], Manifest] = {}
        """By repository, and tag or digest."""
        self.uploads: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self.login: str | None = None
        """USER:PASSWORD without which everything is answered with 401."""
        self.broken: str | None = None
        """A pattern; the answer to a `METHOD PATH` that matches is 500."""
        self.limited = False
        """Whether every request is answered with 429."""
        self.tokens = False
        """Whether the login must be exchanged for a token first, as at most registries."""
        self.realm: str | None = None
        """Where a token is asked for, if not here."""
        self.moved: str | None = None
        """Where the server of the tokens sends those who ask, if it gives none itself."""
        self.secretive = False
        """Whether a repository without images is answered with 401, as Docker Hub does."""

    def reference(self, repository: str) -> str:
        """A repository as docker names it."""
        return f"127.0.0.1:{self.port}/{repository}"

    def put(self, repository: str, tag: str, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        """Keep a manifest made by hand; returns its entry for an index."""
        data = json.dumps(content).encode()
        digest = self._keep(repository, tag, Manifest(kind, data))
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    def put_image(
        self, repository: str, tag: str, architecture: str, **labels: str
    ) -> dict[str, Any]:
        """Keep an image without layers; returns its entry for an index."""
        config = {"architecture": architecture, "os": "linux", "config": {"Labels": labels},
                  "rootfs": {"type": "layers", "diff_ids": []}}  # fmt: skip
        data = json.dumps(config).encode()
        self.blobs[_digest(data)] = data
        part = {"mediaType": CONFIG, "digest": _digest(data), "size": len(data)}
        content = {"schemaVersion": 2, "mediaType": IMAGE, "config": part, "layers": []}
        return self.put(repository, tag, IMAGE, content)

    def put_index(self, repository: str, tag: str, kind: str, **images: dict[str, Any]) -> str:
        """Keep an index of images by their architecture; returns its digest."""
        listed = [
            {**image, "platform": {"os": "linux", "architecture": architecture}}
            for architecture, image in images.items()
        ]
        content = {"schemaVersion": 2, "mediaType": kind, "manifests": listed}
        return str(self.put(repository, tag, kind, content)["digest"])

    def uploaded(self) -> list[Asked]:
        """The requests that wrote something."""
        return [asked for asked in self.asked if asked.method in ("POST", "PATCH", "PUT")]

    # --- the protocol -----------------------------------------------------------------------------

    def answer(self, method: str, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """What a request gets."""
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        found = self._refusal(f"{method} {path}", headers) or self._routed(
            method, path, {name: values[0] for name, values in query.items()}, headers, body
        )
        self.asked.append(Asked(method, url, found.status))
        return found

    def _refusal(self, request: str, headers: dict[str, str]) -> Answer | None:
        if self.broken is not None and re.search(self.broken, request):
            return _error(500, "UNKNOWN")
        if self.limited:
            return _error(429, "TOOMANYREQUESTS")
        basic = f"Basic {base64.b64encode((self.login or '').encode()).decode()}"
        if self.moved is not None and request.endswith(" /token"):
            return Answer(307, {"Location": self.moved})
        if request == "GET /token":
            known = headers.get("authorization") == basic
            return Answer(200, {}, json.dumps({"token": TOKEN if known else "none"}).encode())
        wanted = f"Bearer {TOKEN}" if self.tokens else basic
        denied = self.login is not None and headers.get("authorization") != wanted
        hidden = re.fullmatch(f"(?:GET|HEAD) {NAME}/manifests/.*", request)
        if self.secretive and hidden and not any(name == hidden[1] for name, _ in self.manifests):
            denied = True
        return _error(401, "UNAUTHORIZED", self._challenge()) if denied else None

    def _challenge(self) -> str:
        """How to log in."""
        if not self.tokens:
            return 'Basic realm="registry"'
        realm = self.realm or f"http://127.0.0.1:{self.port}/token"
        return f'Bearer realm="{realm}",service="registry",scope="pull"'

    def _routed(
        self, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes
    ) -> Answer:
        if path == "/v2/":
            return Answer(200, {}, b"{}")
        if there := re.fullmatch(f"{NAME}/blobs/uploads/([0-9a-f]*)", path):
            return self._upload(method, there[1], there[2], query, body)
        if there := re.fullmatch(f"{NAME}/blobs/([^/]+)", path):
            return self._blob(there[2])
        if there := re.fullmatch(f"{NAME}/manifests/([^/]+)", path):
            if method == "PUT":
                kind = headers.get("content-type", "")
                return self._put_manifest(there[1], there[2], Manifest(kind, body))
            return self._manifest(there[1], there[2])
        return _error(404, "NAME_UNKNOWN")

    def _upload(
        self, method: str, name: str, upload: str, query: dict[str, str], body: bytes
    ) -> Answer:
        """POST begins one, or is the whole; PATCH goes on; PUT ends it."""
        if method == "POST":
            if query.get("mount") in self.blobs:
                return _created(name, "blobs", query["mount"])
            upload = uuid.uuid4().hex
            self.uploads[upload] = b""
        if upload not in self.uploads:
            return _error(404, "BLOB_UPLOAD_UNKNOWN")
        self.uploads[upload] += body
        if "digest" not in query:
            end = max(len(self.uploads[upload]) - 1, 0)
            where = {"Location": f"/v2/{name}/blobs/uploads/{upload}", "Range": f"0-{end}"}
            return Answer(202, {**where, "Docker-Upload-UUID": upload})
        data = self.uploads.pop(upload)
        if _digest(data) != query["digest"]:
            return _error(400, "DIGEST_INVALID")
        self.blobs[query["digest"]] = data
        return _created(name, "blobs", query["digest"])

    def _blob(self, digest: str) -> Answer:
        if digest not in self.blobs:
            return _error(404, "BLOB_UNKNOWN")
        kind = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest}
        return Answer(200, kind, self.blobs[digest])

    def _put_manifest(self, name: str, reference: str, manifest: Manifest) -> Answer:
        """Taken once all that it names is here."""
        content = json.loads(manifest.data)
        blobs = [part["digest"] for part in [content.get("config"), *content.get("layers", [])]
                 if part]  # fmt: skip
        children = [(name, part["digest"]) for part in content.get("manifests", [])]
        if not self.blobs.keys() >= set(blobs) or not self.manifests.keys() >= set(children):
            return _error(404, "MANIFEST_BLOB_UNKNOWN")
        if ":" in reference and reference != _digest(manifest.data):
            return _error(400, "DIGEST_INVALID")
        return _created(name, "manifests", self._keep(name, reference, manifest))

    def _keep(self, name: str, reference: str, manifest: Manifest) -> str:
        digest = _digest(manifest.data)
        self.manifests[name, reference] = self.manifests[name, digest] = manifest
        return digest

    def _manifest(self, name: str, reference: str) -> Answer:
        found = self.manifests.get((name, reference))
        if found is None:
            return _error(404, "MANIFEST_UNKNOWN")
        digest = {"Content-Type": found.kind, "Docker-Content-Digest": _digest(found.data)}
        return Answer(200, digest, found.data)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _created(name: str, what: str, digest: str) -> Answer:
    where = f"/v2/{name}/{what}/{digest}"
    return Answer(201, {"Location": where, "Docker-Content-Digest": digest})


def _error(status: int, code: str, challenge: str | None = None) -> Answer:
    """As the specification words it."""
    error = {"code": code, "message": code.lower().replace("_", " "), "detail": None}
    headers = {"Content-Type": "application/json"}
    if challenge is not None:
        headers["WWW-Authenticate"] = challenge
    return Answer(status, headers, json.dumps({"errors": [error]}).encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Registry

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        status, more, body = self.registry.answer(self.command, self.path, headers, self._body())
        self.send_response(status, HTTPStatus(status).phrase)
        for name, value in {"Docker-Distribution-Api-Version": "registry/2.0", **more}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = _serve  # noqa: N815  names that it calls

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@contextmanager
def serving() -> Iterator[Registry]:
    """An empty registry on a free port."""
    registry = Registry()
    handler = type("Handler", (_Handler,), {"registry": registry})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    registry.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
