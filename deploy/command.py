"""What all commands share: a frame that turns every failure into one line and an exit code."""

from __future__ import annotations

import inspect
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from deploy.ends import ERROR, INTERRUPTED, INVALID, NO_ACCESS, Stop, told

if TYPE_CHECKING:
    from deploy.runpod_api import Pod, RunPod

Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout, errors as one on stderr.")
]
StoreUrl = Annotated[
    str | None,
    typer.Option("--store", help="s3://bucket/prefix; default: where the run is known to be, "
                 "else EVENGRAD_STORE."),
]  # fmt: skip
KeyFile = Annotated[
    str | None,
    typer.Option("--api-key-file", help="File with RunPod's API key; default: RUNPOD_API_KEY, else "
                 "what `runpod config` has stored."),
]  # fmt: skip
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Run id, or name/run id.")]


def serve(name: str, function: Callable[..., None], *codes: int) -> NoReturn:
    """Run `python -m deploy.NAME`; ends the process with one of the exit codes of deploy.ends."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    text = f"{inspect.getdoc(function)}\n\n{told(*codes)}"
    app.command(name=name, help=text)(function)
    try:
        app(prog_name=f"python -m deploy.{name}")
    except KeyboardInterrupt:
        _fail(INTERRUPTED, "interrupted")
    except Exception as fault:
        code, lines, pod = _explained(fault)
        for line in lines:
            _fail_line(code, line, pod)
        sys.exit(code)
    sys.exit(0)


def _explained(fault: Exception) -> tuple[int, list[str], str | None]:
    """Exit code, lines, and the pod that it is about; what is not a user's business is raised."""
    from deploy.runpod_api import ApiError, BadCredentials, NoBalance, NotAllowed
    from job.document import Damaged, Fenced
    from job.faults import InputError
    from job.store import StoreError

    match fault:
        case Stop():
            return fault.code, [str(fault)], fault.pod
        case InputError():
            return INVALID, [str(one) for one in fault.faults], None
        case BadCredentials() | NoBalance() | NotAllowed():
            return NO_ACCESS, [f"RunPod: {fault}"], None
        case ApiError():
            return ERROR, [f"RunPod: {fault}"], None
        case StoreError() | Damaged() | Fenced():
            return ERROR, [str(fault)], None
    raise fault


def _fail_line(code: int, line: str, pod: str | None) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"error": line, "code": code, "pod_id": pod}), file=sys.stderr)
    else:
        print(f"evengrad: {line}", file=sys.stderr)


def _fail(code: int, line: str) -> NoReturn:
    _fail_line(code, line, None)
    sys.exit(code)


def say(text: str) -> None:
    """One line of progress, on stderr."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def confirm(question: str, yes: bool) -> None:
    """Ask, unless told not to; raises Stop where the answer is no, or nobody can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        why = f"{question} nobody can answer: stdin is no terminal; give --yes"
        raise Stop(INVALID, why)
    if not typer.confirm(question, default=False, err=True):
        raise Stop(INTERRUPTED, "not confirmed; nothing was done")


def client(key_file: str | None) -> RunPod:
    """RunPod's API with the account's key; raises Stop."""
    from deploy.key import account_key
    from deploy.runpod_api import API, RunPod

    given = None
    if key_file is not None:
        try:
            with open(key_file, encoding="utf-8") as file:
                given = file.read().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = f"--api-key-file {key_file}: {type(error).__name__}"
            raise Stop(NO_ACCESS, why) from None
    return RunPod(account_key(given, os.environ), os.environ.get("RUNPOD_API_URL", API))


def pods_if_any(key_file: str | None, required: bool = False) -> list[Pod] | None:
    """The account's pods; None without a key, unless it is required. Raises Stop, ApiError."""
    try:
        api = client(key_file)
    except Stop:
        if required or key_file is not None:
            raise
        return None
    with api:
        return api.pods()


def signals() -> threading.Event:
    """Set by the first Ctrl-C or SIGTERM; a second one ends the process at once."""
    interrupted = threading.Event()

    def heed(*_: object) -> None:
        interrupted.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, heed)
    return interrupted


def out(value: object) -> None:
    """A JSON object on stdout."""
    print(json.dumps(value, default=str, allow_nan=False))
