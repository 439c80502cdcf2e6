"""What the simulated RunPod accepts as a new pod."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

Check = Callable[[Any], bool]


class Form(NamedTuple):
    """An object: its fields, and those that must be there."""

    fields: Mapping[str, Check | Form]
    required: tuple[str, ...] = ()


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _named(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _from(least: int) -> Check:
    def check(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    return check


def _each(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _version(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\d+\.\d+", value) is not None


NETWORK = Form({"volumeId": _text, "path": _text}, ("volumeId", "path"))


def _networks(value: Any) -> bool:
    volumes = value if isinstance(value, list) else [value, value]
    return len(volumes) < 2 and not any(list(violations(volume, NETWORK)) for volume in volumes)


POD = Form(
    {
        "name": _named,
        "image": _text,
        "args": _text,
        "disk": _from(1),
        "env": lambda value: isinstance(value, dict) and all(map(_text, value.values())),
        "ports": _each(_text),
        "registry": lambda value: value is None or _text(value),
        "cloud": lambda value: value in ("SECURE", "COMMUNITY"),
        "dataCenterIds": _each(_text),
        "globalNetworking": _flag,
        "startJupyter": _flag,
        "startSsh": _flag,
        "templateId": _named,
        "gpu": Form(
            {
                "id": _text,
                "count": _from(1),
                "minCudaVersion": _version,
                "allowedCudaVersions": _each(_version),
            },
            ("id",),
        ),
        "cpu": Form({"id": _named, "vcpuCount": _from(2)}, ("id", "vcpuCount")),
        "mounts": Form(
            {
                "persistent": Form({"size": _from(10), "path": _text}, ("size", "path")),
                "network": _networks,
            }
        ),
    },
    ("name",),
)


def violations(value: Any, form: Form = POD, where: str = "$") -> Iterator[str]:
    """How a body breaks the contract, which is a 422."""
    if not isinstance(value, dict):
        yield f"{where}: must be an object"
        return
    for name in value.keys() - form.fields.keys():
        yield f"{where}: additional properties '{name}' not allowed"
    missing = [name for name in form.required if name not in value]
    if form is POD and "templateId" not in value and "image" not in value:
        missing.append("image")
    for name in missing:
        yield f"{where}: missing property '{name}'"
    for name in value.keys() & form.fields.keys():
        check, inner = form.fields[name], f"{where}.{name}"
        if isinstance(check, Form):
            yield from violations(value[name], check, inner)
        elif not check(value[name]):
            yield f"{inner}: is not valid"


def broken_rule(body: dict[str, Any]) -> str | None:
    """What a body breaks that the contract's schema does not express, which is a 400."""
    gpu, mounts = body.get("gpu", {}), body.get("mounts", {})
    cores = body.get("cpu", {}).get("vcpuCount", 2)
    rules = {
        "exactly one of gpu or cpu must be set": ("gpu" in body) != ("cpu" in body),
        "name must have at most 191 characters": len(body["name"]) <= 191,
        "env must have at most 50 variables": len(body.get("env", {})) <= 50,
        "minCudaVersion and allowedCudaVersions are mutually exclusive": not (
            "minCudaVersion" in gpu and gpu.get("allowedCudaVersions")
        ),
        "mounts.persistent and mounts.network are mutually exclusive": len(mounts) < 2,
        "mounts.persistent is not valid for a CPU pod": not (
            "persistent" in mounts and "cpu" in body
        ),
        "vcpuCount must be a power of two": cores & (cores - 1) == 0,
    }
    return next((rule for rule, holds in rules.items() if not holds), None)
