"""`python -m job diagnose`."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from job.cli.arguments import Json, Spec
from job.errors import Fault, InputError
from job.exit_codes import FAILED, FINDINGS, INTERRUPTED, PASSED
from job.spec import JobSpec
from job.spec.patch import applied, moved
from job.spec.read import parse_spec, read_text, with_digests

if TYPE_CHECKING:
    from job.diagnose.diagnose import Diagnosis


def diagnose(
    spec: Spec,
    fix: Annotated[
        Path | None,
        typer.Option(metavar="OUT.json", help="New file for the edited spec."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Train the spec and the edited one; check the predictions."),
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of --verify, from the spec's on.")] = 1,
    workers: Annotated[
        int, typer.Option(min=1, help="Runs of --verify at the same time, each on one thread.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Report why a task does not learn, measured in short trainings, and which edit mends it.

    Findings come in the order in which one hides the next; each has its evidence, a remedy as JSON
    Patch (RFC 6902) of the spec, and its effect in a probe. Exit codes: 0 nothing found; 7
    something found, or a task without validation skill; 75 interrupted before anything was found;
    1 failed, or a fixed run of --verify did; 2 invalid spec, data or usage.
    """
    from job.diagnose import show
    from job.run.start_from import only_anew
    from job.show.console import Screen

    text = read_text(spec)
    folder = spec.resolve().parent
    job, raw = with_digests(parse_spec(text, str(spec)), folder), json.loads(text)
    only_anew(job)
    if fix is not None:
        check_free(fix)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it keeps what was found, as Ctrl-C
    try:
        diagnosis = _diagnosed(job, folder)
    except KeyboardInterrupt:
        _print_notice("interrupted before anything was measured")
        raise typer.Exit(INTERRUPTED) from None
    out, record = Screen(), show.diagnosis_json(diagnosis, raw)
    if not as_json:
        show.print_diagnosis(out, diagnosis, raw)
    verified = _verified(diagnosis, job, folder, seeds, workers) if verify else None
    if verified is not None:
        record["verified"] = verified
        if not as_json:
            show.print_verification(out, verified)
    if as_json:
        typer.echo(json.dumps(record, allow_nan=False))
    if fix is not None and diagnosis.edits:
        write(moved(applied(raw, diagnosis.edits), spec, fix), fix)
        _print_notice(f"wrote {fix}")
    elif fix is not None:
        _print_notice(f"{fix} was not written: there is nothing to edit")
    raise typer.Exit(_exit_code(diagnosis, verified))


def _diagnosed(job: JobSpec, folder: Path) -> Diagnosis:
    """The diagnosis of a spec on its data; what is being tried is shown meanwhile."""
    from job.data.dataset import load
    from job.diagnose import show
    from job.diagnose.diagnose import diagnose as find_causes
    from job.run.start_from import with_start

    with show.progress() as watch:
        data = with_start(load(job, folder), job, None)
        return find_causes(job, data, watch=watch, cores=cores())


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _verified(
    diagnosis: Diagnosis, job: JobSpec, folder: Path, seeds: int, workers: int
) -> dict[str, Any] | None:
    """What training the spec and the edited one shows; None, with a notice, if they are not."""
    from job.diagnose.verify import verify as train_both
    from job.spec.patch import edited

    interrupted = diagnosis.cut == "interrupt"
    if interrupted or not diagnosis.edits:
        why = "it was interrupted" if interrupted else "there is nothing to edit"
        _print_notice(f"nothing was verified: {why}")
        return None
    fixed = edited(job, diagnosis.edits)
    try:
        return train_both(diagnosis, job, fixed, folder, seeds, workers, _print_notice)
    except KeyboardInterrupt:
        _print_notice("nothing was verified: it was interrupted")
    except InputError as error:  # the data is not there any more: what was found stays
        _print_notice(f"nothing was verified: {error}")
    return None


def _exit_code(diagnosis: Diagnosis, verified: dict[str, Any] | None) -> int:
    if verified is not None and verified["failed"]:
        return FAILED
    if diagnosis.findings:
        return FINDINGS
    return INTERRUPTED if diagnosis.cut == "interrupt" else PASSED


def _print_notice(text: str) -> None:
    typer.echo(text, err=True)


def check_free(out: Path) -> None:
    """Raise InputError if the path exists, or its folder cannot be written."""
    if os.path.lexists(out):
        rule, remedy = "a file that exists is never overwritten", "name another"
        raise InputError([Fault(f"--fix {out}", "a file of that name", rule, remedy)])
    folder = out.resolve().parent
    if not folder.is_dir():
        rule = "its folder must exist"
        raise InputError([Fault(f"--fix {out}", "no such folder", rule, "make it")])
    if not os.access(folder, os.W_OK):
        rule = "its folder must be writable"
        raise InputError([Fault(f"--fix {out}", "no permission", rule, "name another")])


def write(text: str, out: Path) -> None:
    """Write a new file; raises InputError."""
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        found = error.strerror or str(error)
        raise InputError(
            [Fault(f"--fix {out}", found, "the file must be writable", "name another")]
        ) from error
