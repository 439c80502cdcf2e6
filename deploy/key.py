"""The account's API key: given, in RUNPOD_API_KEY, or stored by `runpod config`; in that order."""

from __future__ import annotations

import os
from collections.abc import Mapping

from deploy.ends import NO_ACCESS, Stop

VARIABLE = "RUNPOD_API_KEY"
WHERE = f"--api-key-file, the variable {VARIABLE}, and ~/.runpod/config.toml of `runpod config`"


def account_key(given: str | None, environment: Mapping[str, str]) -> str:
    """The key; raises Stop where there is none, or one that no header can carry."""
    key = (given or environment.get(VARIABLE) or stored() or "").strip()
    if not key:
        raise Stop(NO_ACCESS, f"no RunPod API key: looked at {WHERE}; give one of them")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise Stop(NO_ACCESS, "the RunPod API key has characters that no key has; correct it")
    return key


def stored() -> str | None:
    """What `runpod config` has stored."""
    if not os.path.exists(os.path.expanduser("~/.runpod/config.toml")):
        return None
    import logging

    handlers = list(logging.root.handlers)
    # Imported here, for it takes seconds and gives the root logger a handler.
    from runpod.cli.groups.config.functions import get_credentials

    logging.root.handlers[:] = handlers
    found = get_credentials()
    key = found.get("api_key") if isinstance(found, dict) else None
    return key if isinstance(key, str) else None
