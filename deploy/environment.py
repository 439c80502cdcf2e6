"""The variables that a pod's container gets: where its run is kept, and the means to write there.

Secrets come as references that RunPod fills in (`{{ RUNPOD_SECRET_name }}`), named in the spec's
resources.secrets or in EVENGRAD_SECRETS (`VARIABLE=name,…`), or by value from an env file. The
account's key is never among them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

from dotenv.parser import parse_stream

from job.faults import Fault, InputError
from job.spec import RUNPOD_NAME, VARIABLE, JobSpec

NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
"""Of a variable in an env file; in capitals, so that a line of a secret is not taken for one."""
MOST = 50
"""Variables that RunPod takes."""
GRACE = "3"
"""Seconds for a last checkpoint: RunPod may kill a pod 5 s after SIGTERM."""
PASSED_ON = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
"""Taken from the submitter's own environment; no secrets."""
SECRETS = "EVENGRAD_SECRETS"
OWN = (
    *("EVENGRAD_STORE", "EVENGRAD_NAME", "EVENGRAD_SPEC_HASH", "EVENGRAD_DEADLINE"),
    *("EVENGRAD_GRACE", "RUN_ID"),
)
"""What evengrad sets, and nobody else."""
NEEDED = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""Without which a container cannot write to S3."""
SHOWN = frozenset({*OWN, *PASSED_ON})
"""Whose values may be printed."""


def pod_environment(
    spec: JobSpec,
    store: str,
    run_id: str,
    environment: Mapping[str, str],
    file: Path | None = None,
) -> dict[str, str]:
    """The container's variables but its deadline; raises InputError.

    environment: the submitter's. file: of `NAME=value` lines, with quotes where a value needs them.
    """
    named = dict(spec.resources.secrets) if spec.resources else {}
    named |= _named(environment.get(SECRETS, ""))
    own = {
        "EVENGRAD_STORE": store,
        "EVENGRAD_NAME": spec.name,
        "EVENGRAD_SPEC_HASH": spec.content_hash(),
        "EVENGRAD_GRACE": GRACE,
        "RUN_ID": run_id,
    }
    given = {
        **{name: environment[name] for name in PASSED_ON if environment.get(name)},
        **{name: f"{{{{ RUNPOD_SECRET_{secret} }}}}" for name, secret in named.items()},
        **(read_env_file(file) if file else {}),
    }
    _check(given, str(file) if file else "the environment")
    return given | own


def with_deadline(variables: Mapping[str, str], deadline: datetime) -> dict[str, str]:
    """The variables and the time at which the container ends its pod, whenever it was started."""
    return {**variables, "EVENGRAD_DEADLINE": f"{deadline.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}


def read_env_file(path: Path) -> dict[str, str]:
    """The values in an env file, as they are: nothing in them is expanded.

    Raises InputError, which tells lines by number: what stands in them may be part of a secret.
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
            faults.append(_not_a_line(path, bound.original.line))
        elif bound.key is not None and bound.value is not None:
            values[bound.key] = bound.value
    if faults:
        raise InputError(faults)
    return values


def _not_a_line(path: Path, line: int) -> Fault:
    rule = "each line must be NAME=value, NAME of A-Z, 0-9 and _; quotes hold more than one line"
    return Fault(f"{path}, line {line}", "something else", rule, "quote the value before it?")


def missing_credentials(variables: Mapping[str, str]) -> list[str]:
    """What an S3 store needs and the container does not get."""
    return [name for name in NEEDED if not variables.get(name)]


def redacted(variables: Mapping[str, str]) -> dict[str, str]:
    """For printing: references and what is no secret as they are, all other values hidden."""
    return {
        name: value if name in SHOWN or value.startswith("{{ RUNPOD_SECRET_") else "<redacted>"
        for name, value in variables.items()
    }


def secrets_in(variables: Mapping[str, str]) -> list[str]:
    """The values that nobody may see."""
    shown = redacted(variables)
    return [value for name, value in variables.items() if shown[name] != value]


def _named(text: str) -> dict[str, str]:
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
    if faults:
        raise InputError(faults)
