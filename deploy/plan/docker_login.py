"""What `docker login` has stored for a registry: in docker's configuration, or in a helper."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from deploy.exits import ERROR, CommandError

HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
"""Under which docker keeps the login for docker.io."""
TOKEN = "<token>"  # noqa: S105 - a helper's user name that says: the secret is a token
HELPER_SECONDS = 30.0


class Login(NamedTuple):
    """Credentials for a registry."""

    user: str
    secret: str
    identity_token: str | None = None
    """In place of user and secret."""

    @property
    def basic(self) -> str:
        """As an HTTP header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


def login_for(registry: str) -> Login | None:
    """The credentials for a registry, such as docker.io; None if there are none.

    Raises CommandError for a configuration or a helper that does not work.
    """
    path = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    config: Any = None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        pass
    if not isinstance(config, dict):
        raise CommandError(ERROR, f"{path} is not docker's configuration; run `docker login` anew")
    keys = HUB_KEYS if registry == "docker.io" else (registry, f"https://{registry}")
    for key in keys:
        if helper := _field(config, "credHelpers").get(key) or config.get("credsStore"):
            if (login := _ask_helper(str(helper), key)) is not None:
                return login
        elif isinstance(entry := _field(config, "auths").get(key), dict):
            return _stored(entry)
    return None


def _field(config: dict[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _stored(entry: dict[str, Any]) -> Login | None:
    with suppress(ValueError):
        user, colon, secret = base64.b64decode(entry.get("auth") or "").decode().partition(":")
        token = entry.get("identitytoken")
        if token or colon:
            return Login(user, secret.strip("\0"), str(token) if token else None)
    return None


def _ask_helper(helper: str, key: str) -> Login | None:
    """What `docker-credential-HELPER get` answers; None if it has nothing for the registry."""
    program = shutil.which(f"docker-credential-{helper}")
    if program is None:
        why = f"docker-credential-{helper}, which docker's configuration names, is not installed"
        raise CommandError(ERROR, f"{why}; install it, or run `docker login` anew")
    try:
        ended = subprocess.run(  # noqa: S603 - a helper of docker's, no shell
            [program, "get"], input=key, capture_output=True, text=True, timeout=HELPER_SECONDS
        )
        answer = json.loads(ended.stdout) if ended.returncode == 0 else {}
        user, secret = str(answer.get("Username") or ""), str(answer.get("Secret") or "")
    except (subprocess.TimeoutExpired, ValueError, AttributeError, OSError):
        why = f"docker-credential-{helper} gives no usable answer; run `docker login` anew"
        raise CommandError(ERROR, why) from None
    if not secret:
        return None
    return Login("", "", secret) if user == TOKEN else Login(user, secret)
