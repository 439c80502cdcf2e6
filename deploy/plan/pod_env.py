"""The variables of a pod's container: where its run is stored, and the credentials for it.

Secrets are references that RunPod fills in (`{{ RUNPOD_SECRET_name }}`), named in the spec's
resources.secrets or in EVENGRAD_SECRETS (`VARIABLE=name,…`), or values from an env file. The
account's key is never among them.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from urllib.parse import urlsplit

from dotenv.parser import parse_stream

from job.errors import Fault, InputError
from job.spec import JobSpec
from job.spec.base import RUNPOD_NAME, VARIABLE

NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
"""A name in an env file; in capitals, so that a line of a secret is not taken for a variable."""
MOST = 50
"""Variables that RunPod accepts."""
GRACE = "3"
"""Seconds for a last checkpoint: RunPod may kill a pod 5 s after SIGTERM."""
ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
PASSED_ON = (
    *(*ENDPOINTS, "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"),
    *("AWS_USE_DUALSTACK_ENDPOINT", "AWS_USE_FIPS_ENDPOINT", "AWS_STS_REGIONAL_ENDPOINTS"),
    *("AWS_S3_US_EAST_1_REGIONAL_ENDPOINT", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"),
    *("AWS_S3_DISABLE_EXPRESS_SESSION_AUTH", "AWS_DEFAULTS_MODE"),
    "AWS_EC2_METADATA_DISABLED",
)
"""Taken from the submitter's own environment; no secrets."""
SECRETS = "EVENGRAD_SECRETS"
OWN = (
    *("EVENGRAD_STORE", "EVENGRAD_NAME", "EVENGRAD_SPEC_HASH", "EVENGRAD_DEADLINE"),
    *("EVENGRAD_GRACE", "RUN_ID"),
)
"""Set by evengrad alone."""
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""Without which a container cannot write to S3."""
SHOWN = frozenset({*OWN, *PASSED_ON})
"""Variables whose values may be printed."""
REFERENCE = "{{ RUNPOD_SECRET_"
"""How a reference to a secret begins."""
LOCAL_NAMES = ("localhost", ".localhost", ".local", ".internal", ".lan")
"""Ends of host names that only one machine or network knows."""


def pod_environment(
    spec: JobSpec,
    store: str,
    run_id: str,
    environment: Mapping[str, str],
    file: Path | None = None,
) -> dict[str, str]:
    """The container's variables without its deadline; raises InputError.

    environment: the submitter's. file: `NAME=value` lines, with quotes if a value needs them.
    """
    secrets = secret_names(spec, environment)
    own = {
        "EVENGRAD_STORE": store,
        "EVENGRAD_NAME": spec.name,
        "EVENGRAD_SPEC_HASH": spec.content_hash(),
        "EVENGRAD_GRACE": GRACE,
        "RUN_ID": run_id,
    }
    given = {
        **{name: environment[name] for name in PASSED_ON if environment.get(name)},
        **{name: f"{REFERENCE}{secret} }}}}" for name, secret in secrets.items()},
        **(read_env_file(file) if file else {}),
    }
    _check(given, str(file) if file else "the environment")
    return given | own


def secret_names(spec: JobSpec | None, environment: Mapping[str, str]) -> dict[str, str]:
    """RunPod secrets by variable, named in the spec or EVENGRAD_SECRETS; raises InputError."""
    named = dict(spec.resources.secrets) if spec is not None and spec.resources else {}
    return named | _parse_secrets(environment.get(SECRETS, ""))


def with_deadline(variables: Mapping[str, str], deadline: datetime) -> dict[str, str]:
    """The variables with the time at which the container ends its pod, however often it starts."""
    return {**variables, "EVENGRAD_DEADLINE": f"{deadline.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}


def read_env_file(path: Path) -> dict[str, str]:
    """The values in an env file, unexpanded.

    Raises InputError, which names lines by number: their text may be part of a secret.
    """
    try:
        text = path.read_bytes().decode("utf-8")  # newlines as they are
    except (OSError, UnicodeDecodeError) as error:
        found = (error.strerror if isinstance(error, OSError) else None) or "other bytes"
        rule, remedy = "an env file must be readable UTF-8 text", "correct --env-file"
        raise InputError([Fault(str(path), found.lower(), rule, remedy)]) from None
    values: dict[str, str] = {}
    faults = []
    for bound in parse_stream(StringIO(text, newline="")):
        if (
            bound.error
            or (bound.key is not None and not NAME.fullmatch(bound.key))
            or (bound.key is not None and bound.value is None)
        ):
            faults.append(_bad_line(path, bound.original.line))
        elif bound.key is not None and bound.value is not None:
            values[bound.key] = bound.value
    if faults:
        raise InputError(faults)
    return values


def _bad_line(path: Path, line: int) -> Fault:
    rule = "each line must be NAME=value, NAME of A-Z, 0-9 and _; quotes hold more than one line"
    return Fault(f"{path}, line {line}", "something else", rule, "quote the value before it?")


def left_behind(environment: Mapping[str, str], variables: Mapping[str, str]) -> list[str]:
    """AWS settings of the submitter that the container lacks, by name.

    They are secrets, which travel by reference or env file only, or name files and profiles of
    this machine.
    """
    return sorted(
        name
        for name, value in environment.items()
        if name.startswith("AWS_") and value not in ("", os.devnull)
        if name not in variables and name not in CREDENTIALS
    )


def missing_credentials(variables: Mapping[str, str]) -> list[str]:
    """The variables that an S3 store needs and the container does not get."""
    return [name for name in CREDENTIALS if not variables.get(name)]


def unreachable_endpoints(variables: Mapping[str, str], api_url: str) -> list[Fault]:
    """Endpoints of the store that no pod can reach: of this machine, or of a private network.

    api_url: RunPod's, if another one is set; pods of a simulated RunPod run on this machine.
    """
    if _is_local(_host(api_url)):
        return []
    rule = "a pod reaches only public addresses, and 127.0.0.1 is the pod itself"
    remedy = "give the store's public address, in --env-file for instance"
    return [
        Fault(name, host, rule, remedy)
        for name in ENDPOINTS
        if _is_local(host := _host(variables.get(name, "")))
    ]


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_local(host: str) -> bool:
    """True for an address or a name that has no meaning outside one machine or network."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host != "" and ("." not in host or host.endswith(LOCAL_NAMES))


def redacted(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables for printing: only references and values of SHOWN are not hidden."""
    return {
        name: value if name in SHOWN or value.startswith(REFERENCE) else "<redacted>"
        for name, value in variables.items()
    }


def secrets_in(variables: Mapping[str, str]) -> list[str]:
    """The values that no output may contain."""
    printed = redacted(variables)
    return [value for name, value in variables.items() if printed[name] != value]


def _parse_secrets(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    for name, _, secret in pairs:
        if not (re.fullmatch(VARIABLE, name.strip()) and re.fullmatch(RUNPOD_NAME, secret.strip())):
            rule = "it must be VARIABLE=name of a RunPod secret, by comma"
            raise InputError([Fault(SECRETS, f"{name}=…", rule, "write it so; never a secret")])
    return {name.strip(): secret.strip() for name, _, secret in pairs}


def _check(given: Mapping[str, str], where: str) -> None:
    faults = [
        Fault(where, name, "evengrad and RunPod set this variable themselves", "remove it")
        for name in given
        if name in OWN or name.startswith("RUNPOD_")
    ]
    if len(given) + len(OWN) > MOST:
        rule = f"RunPod takes {MOST} variables, of which evengrad needs {len(OWN)}"
        faults.append(Fault(where, f"{len(given)} variables", rule, "remove some"))
    faults += [
        Fault(where, f"a NUL in {name}", "no variable can hold it", "remove it")
        for name, value in given.items()
        if "\0" in value
    ]
    faults += [
        Fault(
            f"{where}, {name}",
            "a user or a password in the URL",
            "an endpoint holds no credentials; they come from AWS_* variables",
            "write scheme://host:port alone",
        )
        for name in ENDPOINTS
        if "@" in given.get(name, "")
    ]
    if faults:
        raise InputError(faults)
