"""boto3's client for one bucket: configuration checked, credentials read again when refused.

Endpoint, region and credentials come from boto3's own environment variables and files:
AWS_ENDPOINT_URL, AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,
AWS_PROFILE and so on. With an endpoint of its own a bucket is addressed by path.

A fault of the configuration is reported before anything is sent, and no message repeats a value
that may be a secret.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import SplitResult, urlsplit

from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError
from botocore.session import Session

from job.errors import Fault, InputError
from job.store.s3_errors import ForeignAnswer, quoted, without_credentials

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
"""Longest silence of the server."""
ATTEMPTS = 4
"""How often a request is sent before the server counts as unavailable."""
CONNECTIONS = 24
"""Kept open, for so many threads at a time; what more ask for is opened for each request."""

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""The variables that name the endpoint, in boto3's order."""
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
CHECKED = (*SECRETS, *ENDPOINTS, "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE")
PROVIDERS = (
    *("amazonaws.com", "amazonaws.com.cn", "backblazeb2.com", "digitaloceanspaces.com"),
    *("linodeobjects.com", "r2.cloudflarestorage.com", "storage.googleapis.com", "wasabisys.com"),
)
"""Their console shows each bucket's own host name, `bucket.…`, which is no endpoint."""
AWS = ("amazonaws.com", "amazonaws.com.cn")


class Connection:
    """boto3's client for a bucket; safe to use from several threads. Raises InputError."""

    def __init__(self, bucket: str) -> None:
        if faults := [*_variable_faults()]:
            raise InputError(faults)
        self._renewing = threading.Lock()
        self.secrets: frozenset[str] = frozenset()
        """Values that no message may hold."""
        try:
            self._client: Any = self._connect()
        except (ValueError, BotoCoreError) as error:  # an endpoint, profile or option misspelt
            raise InputError([_misconfigured(error)]) from None
        self.endpoint: str = self._client.meta.endpoint_url
        if fault := _endpoint_fault(self.endpoint, bucket):
            raise InputError([fault])

    def client(self) -> Any:
        """boto3's client; a new one, with credentials read again, after `forget`."""
        with self._renewing:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def forget(self, client: Any) -> None:
        """Make the next request read the credentials again, as the server refused this client's."""
        with self._renewing:
            if client is self._client:
                self._client = None

    def unchecked(self) -> Any:
        """A client that sends no checksums."""
        return self._connect(request_checksum_calculation="when_required")

    @property
    def sends_checksums(self) -> bool:
        """True if writes carry a checksum that the server may refuse."""
        return bool(self.client().meta.config.request_checksum_calculation == "when_supported")

    def _connect(self, **options: Any) -> Any:
        session = _session()
        client: Any = session.create_client("s3", config=_config(**options))
        if not _host(client.meta.endpoint_url).endswith(AWS):
            # botocore follows a redirect to another region, which no other server has; with one
            # that redirects everything it never ends.
            client.meta.events.register_first("needs-retry.s3", _refuse_redirect)
        # The widest pattern is called first, before boto3's own for this event.
        client.meta.events.register_first("before-parse.*", _refuse_page)
        credentials = session.get_credentials()
        if isinstance(credentials, Credentials):
            held = (credentials.access_key, credentials.secret_key, credentials.token)
            self.secrets |= {value for value in held if value}
        return client


@cache
def _loader() -> Any:
    """boto3's description of S3, which takes long to read."""
    return Session().get_component("data_loader")


def _session() -> Session:
    """A session that reads credentials and configuration anew, and the description of S3 once."""
    session = Session()
    session.register_component("data_loader", _loader())
    return session


def _config(**options: Any) -> Config:
    return Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        tcp_keepalive=True,
        max_pool_connections=CONNECTIONS,
        **options,
    )


def _refuse_redirect(response: Any, **_: Any) -> None:
    """Raise ForeignAnswer for a redirect, called by boto3 with an answer or None."""
    if response is not None and 300 < response[0].status_code < 309:
        status, target = response[0].status_code, response[0].headers.get("location", "")
        where = f" to {without_credentials(quoted(target, ()))}" if target else ""
        raise ForeignAnswer(f"{status}: it redirects{where}")


def _refuse_page(operation_model: Any, response_dict: dict[str, Any], **_: Any) -> None:
    """Raise ForeignAnswer for a web page, called by boto3 before it reads an answer.

    boto3 takes it for a damaged answer of S3 and tries again.
    """
    body = response_dict.get("body")
    if response_dict.get("status_code") == 200 and isinstance(body, bytes) and body:
        begin = body.lstrip()[:15].lower()
        if not begin.startswith(b"<") or begin.startswith((b"<!doctype", b"<html")):
            raise ForeignAnswer("a page")


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _variable_faults() -> Iterator[Fault]:
    """Faults of AWS variables whose values are plainly wrong."""
    for name in CHECKED:
        value = os.environ.get(name, "")
        if value.startswith("{{"):
            yield Fault(name, "a reference", "it was not filled in", "create the secret it names")
        elif value and (found := _stray_characters(value)):
            rule = "it must be the bare value"
            yield Fault(name, found, rule, "set it again without them; look at the file it is from")


def _stray_characters(value: str) -> str:
    """What a value holds that no key, region or URL does; "" if nothing."""
    if any(quote in value for quote in "\"'`"):
        return "quotes"
    if any(character.isspace() for character in value):
        return "a newline" if "\n" in value or "\r" in value else "a blank"
    return "" if value.isprintable() and value.isascii() else "characters other than ASCII's"


def _endpoint_variable() -> str:
    named = [name for name in ENDPOINTS if os.environ.get(name)]
    return named[0] if named else "the AWS configuration file's endpoint_url"


def _endpoint_fault(endpoint: str, bucket: str) -> Fault | None:
    """Why the endpoint cannot be one, without repeating what may be secret in it."""
    url = urlsplit(endpoint)
    remedy = "write scheme://host:port alone"
    if found := _credentials_in(url):
        rule = "an endpoint holds no credentials; they come from AWS_* variables"
        return Fault(_endpoint_variable(), found, rule, remedy)
    parts = [part for part in url.path.split("/") if part]
    if bucket in parts or _is_bucket_host(url.hostname or "", bucket):
        rule = "an endpoint is the server without a bucket; the store's URL names the bucket"
        return Fault(_endpoint_variable(), f"the bucket {bucket} in it", rule, remedy)
    if parts and parts[-1] != "s3":  # some gateways serve S3 below such a path
        rule = "an endpoint is a server; a page of its console is none"
        return Fault(_endpoint_variable(), f"a path, {url.path}", rule, remedy)
    return None


def _credentials_in(url: SplitResult) -> str:
    if "@" in url.netloc:
        return "a user or a password in the URL"
    return "a query or a fragment in the URL" if url.query or url.fragment else ""


def _is_bucket_host(host: str, bucket: str) -> bool:
    """True if the host is a bucket's own and not its server's."""
    server = host.removeprefix(f"{bucket}.")
    return server != host and (
        re.match(r"s3[.-]", server) is not None
        or any(server.endswith(f".{provider}") or server == provider for provider in PROVIDERS)
    )


def _misconfigured(error: Exception) -> Fault:
    found = without_credentials(str(error))
    rule = "boto3 needs a valid configuration"
    return Fault("the environment's AWS_* variables", found, rule, "correct them")
