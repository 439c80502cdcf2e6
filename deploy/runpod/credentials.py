"""The account's API key: given, in RUNPOD_API_KEY, or in ~/.runpod/config.toml; in this order.

The file has several forms: `runpod config` and `rp login` of RunPod's SDK (1.x, 2.x) write a table
with `api_key` for each profile, `runpodctl` writes `apikey` at the top.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.exits import NO_ACCESS, CommandError

VARIABLE = "RUNPOD_API_KEY"
CONFIG = "~/.runpod/config.toml"
SOURCES = f"--api-key-file, the variable {VARIABLE}, and {CONFIG} of `runpod config` or `runpodctl`"
PROFILE = "default"
"""The SDK's profile if none is named."""
NAMES = ("api_key", "apikey", "apiKey")
"""The key's name, as the tools write it."""


class NoKey(CommandError):
    """There is no API key of RunPod on this machine."""


def account_key(given: str | None, environment: Mapping[str, str]) -> str:
    """The key; raises NoKey, or CommandError for a key that no header can carry."""
    key = (given or environment.get(VARIABLE) or stored_key() or "").strip()
    if not key:
        why = f"no RunPod API key: looked at {SOURCES}; give one of them"
        raise NoKey(NO_ACCESS, why)
    if not (key.isascii() and key.isprintable() and " " not in key):
        why = "the RunPod API key has characters that no key has; correct it"
        raise CommandError(NO_ACCESS, why)
    return key


def stored_key() -> str | None:
    """The key in RunPod's own file; None if there is none. Raises CommandError."""
    try:
        config = tomllib.loads(Path(CONFIG).expanduser().read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        why = f"{CONFIG} cannot be read: {error.strerror}; correct it, or set {VARIABLE}"
        raise CommandError(NO_ACCESS, why) from None
    except (ValueError, RecursionError):  # the error's own text may quote the key
        why = f"{CONFIG} is not valid TOML; correct it with `runpod config`, or set {VARIABLE}"
        raise CommandError(NO_ACCESS, why) from None
    profiles = {name: key for name, table in config.items() if (key := _key_in(table)) is not None}
    found = profiles.get(PROFILE) or _key_in(config)
    if found is None and len(profiles) > 1:
        why = (
            f"{CONFIG} has keys for {', '.join(sorted(profiles))} and none for {PROFILE}; "
            f"set {VARIABLE}, or give --api-key-file"
        )
        raise CommandError(NO_ACCESS, why)
    return found or next(iter(profiles.values()), None)


def _key_in(table: Any) -> str | None:
    """The key of one profile."""
    names = NAMES if isinstance(table, dict) else ()
    keys = [table[name] for name in names if isinstance(table.get(name), str) and table[name]]
    return keys[0] if keys else None
