"""The frame of all commands, which turns every failure into one line and an exit code."""

from __future__ import annotations

import inspect
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import typer

from deploy.exits import (
    COMMON,
    ERROR,
    INTERRUPTED,
    INVALID,
    NO_ACCESS,
    OK,
    CommandError,
    exit_code_help,
)
from deploy.output import log_line

if TYPE_CHECKING:
    from deploy.runpod.client import RunPod
    from deploy.runpod.models import Pod


def run_command(name: str, command: Callable[..., None], *codes: int) -> NoReturn:
    """Run `python -m deploy.NAME`, and exit with one of these codes or of COMMON."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    text = f"{inspect.getdoc(command)}\n\n{exit_code_help(*sorted({*COMMON, *codes}))}"
    app.command(name=name, help=text)(command)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an encoding may lack a character
    try:
        sys.exit(app(prog_name=f"python -m deploy.{name}", standalone_mode=False))
    except BrokenPipeError:  # `| head`: its reader has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(OK)
    except (KeyboardInterrupt, typer.Abort):
        _exit_with(INTERRUPTED, ["interrupted"], None)
    except Exception as fault:
        _exit_with(*_explain(fault))


def _explain(fault: Exception) -> tuple[int, list[str], str | None]:
    """The exit code, the lines, and the pod concerned. Raises the error again if it is a bug."""
    from deploy.runpod.errors import ApiError, BadCredentials, NoBalance, NotAllowed
    from job.errors import InputError
    from job.record.document import Damaged, Fenced
    from job.store import Forbidden, StoreError

    usage = getattr(fault, "format_message", None)  # typer has no public name for its error's base
    if usage is not None:
        return INVALID, [f"{usage().rstrip('.')}; see --help"], None
    match fault:
        case CommandError():
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


def _exit_with(code: int, lines: list[str], pod: str | None) -> NoReturn:
    """Print why, in a line each or as one JSON object, and exit."""
    if "--json" in sys.argv:
        error = {"error": lines[0], "faults": lines, "code": code, "pod_id": pod}
        print(json.dumps(error), file=sys.stderr)
    else:
        for line in lines:
            log_line(f"evengrad: {line}")
    sys.exit(code)


def confirm(question: str, yes: bool) -> None:
    """Ask the user, unless `yes`; raises CommandError if the answer is no, or nobody can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        why = f"{question} nobody can answer: stdin is no terminal; give --yes"
        raise CommandError(INVALID, why)
    if not typer.confirm(question, default=False, err=True):
        raise CommandError(INTERRUPTED, "not confirmed; nothing was done")


def client(key_file: str | None) -> RunPod:
    """RunPod's API with the account's key; raises CommandError."""
    from deploy.runpod.client import API, RunPod
    from deploy.runpod.credentials import account_key

    given = None
    if key_file is not None:
        try:
            with open(key_file, encoding="utf-8") as file:
                given = file.read().strip()
        except (OSError, UnicodeDecodeError) as error:
            problem = (error.strerror if isinstance(error, OSError) else None) or "other bytes"
            why = f"--api-key-file {key_file}: found {problem.lower()}; it must be a text file"
            raise CommandError(NO_ACCESS, why) from None
        if not given:
            why = f"--api-key-file {key_file}: found nothing in it; it must hold the key"
            raise CommandError(NO_ACCESS, why)
    return RunPod(account_key(given, os.environ), os.environ.get("RUNPOD_API_URL", API))


def list_pods(key_file: str | None, required: bool = False) -> list[Pod] | None:
    """The account's pods; None, with a line why, if RunPod cannot be asked.

    Raises CommandError, ApiError if the list is required, or the given key file is unusable.
    """
    from deploy.runpod.credentials import NoKey
    from deploy.runpod.errors import ApiError

    try:
        with client(key_file) as api:
            return api.pods()
    except (CommandError, ApiError) as fault:
        if required or (isinstance(fault, CommandError) and key_file is not None):
            raise
        why = "no API key" if isinstance(fault, NoKey) else fault
        log_line(f"RunPod was not asked for pods: {why}")
        return None


def catch_signals() -> threading.Event:
    """An event set by the first Ctrl-C or SIGTERM; a second signal ends the process at once."""
    interrupted = threading.Event()

    def handle(*_: object) -> None:
        interrupted.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    return interrupted
