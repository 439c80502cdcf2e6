"""The spec in a run's folder, perhaps stored by an older version that lacked some of the fields."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import Any

from job.spec.job_spec import JobSpec, written
from job.spec.read import parse_spec

OLDER = {"arrays": {"scale": "none"}}
"""By kind of data, what its fields that older versions lacked meant by their absence, where that
is not their default now."""


def completed(content: Any) -> Any:
    """A stored spec's content, with the values that older versions meant by leaving them out."""
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, dict):
        return content
    return content | {"data": OLDER.get(str(data.get("kind")), {}) | data}


def parse_stored(text: str, where: str) -> JobSpec:
    """The spec in the stored `text`; raises InputError, `where` as for parse_spec."""
    with suppress(ValueError):  # parse_spec says what is wrong
        text = json.dumps(completed(json.loads(text)))
    return parse_spec(text, where)


def is_stored(spec: JobSpec, text: str | None) -> bool:
    """True if the text is the spec as this or an older version stores it, whatever its label."""
    with suppress(ValueError, RecursionError, AttributeError, TypeError):
        content = json.loads(text or "")
        if isinstance(content, dict):
            kept = {name: value for name, value in content.items() if name not in spec.ABOUT}
            return written(kept) in spellings(spec)
    return False


def spellings(spec: JobSpec) -> list[str]:
    """The content of a spec, as this and as older versions write it."""
    content = json.loads(spec.content())
    data = content["data"]
    older = OLDER.get(data["kind"], {})
    if any(data[name] != value for name, value in older.items()):
        return [spec.content()]
    content["data"] = {name: value for name, value in data.items() if name not in older}
    return list(dict.fromkeys([spec.content(), written(content)]))


def has_content(spec: JobSpec, content_hash: str) -> bool:
    """True if that is the hash of the spec's content, of this or of an older version."""
    hashes = (hashlib.sha256(text.encode()).hexdigest() for text in spellings(spec))
    return content_hash in hashes
