"""The command line of `python -m job`: its commands, and the exit codes of errors."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import typer

from job.cli.compare import compare
from job.cli.diagnose import diagnose
from job.cli.evaluate import evaluate
from job.cli.list import list_runs
from job.cli.package import package
from job.cli.predict import predict
from job.cli.run import run
from job.cli.search import search
from job.cli.validate import schema, validate
from job.env import liveness_path
from job.errors import InputError
from job.exit_codes import (
    ABORTED,
    DEVICE_FAILED,
    FAILED,
    FINDINGS,
    GATES_FAILED,
    INTERRUPTED,
    INVALID,
    PASSED,
    exit_code_help,
)
from job.run.exit_relay import relaying
from job.show.printable import printable

# Loading torch takes seconds, which a command without it must not spend: the commands that train
# import it inside their functions.

app = typer.Typer(
    name="python -m job",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Train one network on several tasks, and report which one starves.\n\n"
    + exit_code_help(PASSED, FAILED, INVALID, GATES_FAILED, FINDINGS, INTERRUPTED, ABORTED),
)
for command in (
    run, validate, schema, compare, diagnose, search, predict, evaluate, package
):  # fmt: skip
    app.command()(command)
app.command("list")(list_runs)


def main(argv: list[str] | None = None) -> Any:
    """Run a command; each fault of the user is one line on stderr, with exit code 2.

    A run that cannot be claimed or stored, or a file that cannot be written, is one line, with
    exit code 1. A rank under torchrun
    relays its exit code (job.run.exit_relay).
    """
    with relaying(os.environ):
        return _command(argv)


def _command(argv: list[str] | None) -> Any:
    from job.record.claim import Refused
    from job.record.document import Damaged, Fenced
    from job.record.lease import Held
    from job.store import StoreError

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an encoding may lack a character
    try:
        return app(argv)
    except (Refused, Held, Fenced, Damaged, StoreError) as refusal:
        print(f"evengrad: {printable(str(refusal))}", file=sys.stderr)
        sys.exit(FAILED)
    except (RuntimeError, MemoryError) as error:
        from job.distributed.device import device_fault

        if device_fault(error) is None:
            raise
        reason = printable(f"{type(error).__name__}: {error}".splitlines()[0])
        print(f"evengrad: the device or its memory failed: {reason}", file=sys.stderr)
        sys.exit(FAILED if liveness_path(os.environ) is None else DEVICE_FAILED)
    except OSError as error:
        reason = printable(f"{error.filename or 'this machine'}: {error.strerror or error}")
        print(f"evengrad: {reason}", file=sys.stderr)
        sys.exit(FAILED)
    except InputError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        sys.exit(INVALID)
