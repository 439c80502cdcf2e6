"""What all commands share: a frame that turns every failure into one line and an exit code."""

from __future__ import annotations

import inspect
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from deploy.ends import ERROR, INTERRUPTED, INVALID, NO_ACCESS, OK, Stop, told

if TYPE_CHECKING:
    from deploy.runpod_api import Pod, RunPod

Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout, errors as one on stderr.")
]
StoreUrl = Annotated[
    str | None,
    typer.Option("--store", help="s3://bucket/prefix; default: where the run is known to be, "
                 "else EVENGRAD_STORE; a run is looked for in ./runs too."),
]  # fmt: skip
KeyFile = Annotated[
    str | None,
    typer.Option("--api-key-file", help="File with RunPod's API key; default: RUNPOD_API_KEY, else "
                 "what `runpod config` has stored."),
]  # fmt: skip
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Run id, name/run id, or a local run's folder.")
]


def serve(name: str, function: Callable[..., None], *codes: int) -> NoReturn:
    """Run `python -m deploy.NAME`; ends the process with one of the exit codes of deploy.ends."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    text = f"{inspect.getdoc(function)}\n\n{told(*codes)}"
    app.command(name=name, help=text)(function)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an encoding may lack a character
    try:
        sys.exit(app(prog_name=f"python -m deploy.{name}", standalone_mode=False))
    except BrokenPipeError:  # `| head`: its reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(OK)
    except (KeyboardInterrupt, typer.Abort):
        _fail(INTERRUPTED, ["interrupted"], None)
    except Exception as fault:
        _fail(*_explained(fault))


def _explained(fault: Exception) -> tuple[int, list[str], str | None]:
    """Exit code, lines, and the pod that it is about; what is not a user's business is raised."""
    from deploy.runpod_api import ApiError, BadCredentials, NoBalance, NotAllowed
    from job.document import Damaged, Fenced
    from job.faults import InputError
    from job.store import Forbidden, StoreError

    usage = getattr(fault, "format_message", None)  # typer has no public name for its error's base
    if usage is not None:
        return INVALID, [f"{usage().rstrip('.')}; see --help"], None
    match fault:
        case Stop():
            return fault.code, [str(fault)], fault.pod
        case InputError():
            return INVALID, [str(one) for one in fault.faults], None
        case BadCredentials() | NoBalance() | NotAllowed():
            return NO_ACCESS, [f"RunPod: {fault}"], None
        case ApiError():
            return ERROR, [f"RunPod: {fault}"], None
        case Forbidden():
            return NO_ACCESS, [str(fault)], None
        case StoreError() | Damaged() | Fenced():
            return ERROR, [str(fault)], None
        case OSError():
            return ERROR, [f"{fault.filename or 'this machine'}: {fault.strerror or fault}"], None
    raise fault


def _fail(code: int, lines: list[str], pod: str | None) -> NoReturn:
    """Tell why, in a line each or as one JSON object, and end."""
    if "--json" in sys.argv:
        told = {"error": lines[0], "faults": lines, "code": code, "pod_id": pod}
        print(json.dumps(told), file=sys.stderr)
    else:
        for line in lines:
            print(f"evengrad: {line}", file=sys.stderr)
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
            said = (error.strerror if isinstance(error, OSError) else None) or "other bytes"
            why = f"--api-key-file {key_file}: found {said.lower()}; it must be a text file"
            raise Stop(NO_ACCESS, why) from None
    return RunPod(account_key(given, os.environ), os.environ.get("RUNPOD_API_URL", API))


def pods_if_any(key_file: str | None, required: bool = False) -> list[Pod] | None:
    """The account's pods; None where they cannot be had, unless required. Raises Stop, ApiError."""
    from deploy.runpod_api import ApiError

    try:
        with client(key_file) as api:
            return api.pods()
    except (Stop, ApiError) as fault:
        if required or (isinstance(fault, Stop) and key_file is not None):
            raise
        why = "no API key" if isinstance(fault, Stop) else str(fault)
        say(f"RunPod was not asked for pods: {why}")
        return None


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
