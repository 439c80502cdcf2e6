"""`python -m job run`."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from job.cli.arguments import Json, Spec, Traceback, causes
from job.cli.earlier_events import earlier_events
from job.env import liveness_path, under_torchrun
from job.events import fields
from job.exit_codes import INTERRUPTED
from job.record.layout import CODE, FORM, RULE, new_run_id
from job.runs.find import reference
from job.show.lines import Readable
from job.show.live import Live
from job.show.printable import printable
from job.spec import JobSpec
from job.spec.own_code import sources
from job.spec.read import read_spec
from job.store import Store, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from job.checkpoint.restore import Restored
    from job.distributed.ranks import Ranks
    from job.record.claim import Claim
    from job.run.attempt import RunAttempt
    from job.train.trainer import Trainer


Where = Annotated[str, typer.Option(help="Store of the runs: a directory, or s3://bucket/prefix.")]
RunId = Annotated[
    str | None,
    typer.Option(help="Name of the run; an unfinished run of that name is resumed."),
]
Resume = Annotated[
    str | None, typer.Option(metavar="RUN_ID", help="Like --run-id, but the run must exist.")
]
TakeOver = Annotated[
    bool,
    typer.Option("--take-over", help="Do not wait for another process of the run."),
]
Control = Annotated[
    bool,
    typer.Option(
        "--control",
        help="Permute the targets between samples: what the job measures where there is "
        "nothing to learn.",
    ),
]
Extend = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="Begin with the whole state of a run (folder, id, or s3://…), to train for more "
        "epochs.",
    ),
]
Grace = Annotated[
    float,
    typer.Option(min=0, max=86400, help="Seconds after a signal for a last checkpoint."),
]
Pretty = Annotated[
    bool, typer.Option("--pretty", help="Print text even if the output is not a terminal.")
]


def run(
    spec: Spec,
    store: Where = "runs",
    run_id: RunId = None,
    resume: Resume = None,
    take_over: TakeOver = False,
    control: Control = False,
    grace: Grace = 5.0,
    extend: Extend = None,
    traceback: Traceback = False,
    as_json: Json = False,
    pretty: Pretty = False,
) -> None:
    """Train a spec; the exit code is the verdict of its gates."""
    if as_json and pretty:
        raise typer.BadParameter("choose one of --json and --pretty")
    name = _run_name(run_id, resume)
    # Until the run has its own handlers nothing is lost by a signal: it is resumable at once.
    handle_signals(_end_at_once)
    job = read_spec(spec)
    extends = job.extends if extend is None else reference(extend, store)
    job = job.model_copy(update={"control": job.control or control, "extends": extends})
    ranks = _join_ranks(job) if under_torchrun(os.environ) else None
    if ranks is not None and ranks.rank > 0:
        with causes(traceback):
            raise typer.Exit(_train_along(job, ranks))

    from job.distributed.ranks import ALONE
    from job.record.claim import Finished, claim, has_checkpoint
    from job.run.extend import extension
    from job.show.live import make_display
    from job.store import open_store
    from job.store.by_content import keep_files

    handle_signals(_interrupted)
    where, key = open_store(store, job.checkpoint.encryption), f"{job.name}/{name}"
    _leave_finished(where, key, job)
    screen = make_display() if pretty or (sys.stdout.isatty() and not as_json) else None
    anew = job.extends is None and job.model.start_from is None
    begun = anew or has_checkpoint(where, key)
    with causes(traceback):
        training = _make_trainer(job, spec, ranks or ALONE, None if begun else store)
        state = extension(job, training.data, store) if job.extends and not begun else None
    if state is not None:
        typer.echo(printable(_continuation(state)), err=True)
    again = (
        ""
        if liveness_path(os.environ)
        else resume_command(spec, name, store, control, None if extend is None else extends)
    )
    try:
        claimed = claim(where, job, key, take_over=take_over, must_exist=resume is not None)
        keep_files(where, f"{key}/{CODE}", _own_files(job, spec.resolve().parent))
        raise typer.Exit(_execute(training, claimed, name, screen, grace, again, state))
    except Finished as finished:
        typer.echo(finished_notice(where, key, finished.code), err=True)
        raise typer.Exit(finished.code) from None
    finally:
        if screen is not None:
            screen.close()


def _leave_finished(store: Store, key: str, job: JobSpec) -> None:
    """Exit with the code of a run that has finished, and a line that says so."""
    from job.record.claim import finished_code

    code = finished_code(store, key, job)
    if code is not None:
        typer.echo(finished_notice(store, key, code), err=True)
        raise typer.Exit(code)


def _execute(
    training: Trainer,
    claimed: Claim,
    name: str,
    screen: Live | Readable | None,
    grace: float,
    again: str,
    state: Restored | None,
) -> int:
    """One attempt at a claimed run, on a screen or as lines of JSON; returns the exit code.

    again: the command that resumes it, "" if a supervisor does. state: of the run that it extends.
    """
    from job.env import own_pod
    from job.events.log import Sampled, print_line
    from job.run.attempt import RunAttempt

    def notify(text: str) -> None:
        if screen is not None:
            screen.close()
        typer.echo(printable(text), err=True)

    sinks = [screen or (Sampled() if own_pod(os.environ) else print_line)]
    attempt = RunAttempt(training, claimed, name, sinks, grace, again, notify, state)
    if screen is not None:
        connect_screen(screen, attempt)
    code = attempt.execute()
    if screen is not None and attempt.report_url:
        screen.print_text(f"report: {attempt.report_url}")
    return code


def _run_name(run_id: str | None, resume: str | None) -> str:
    """The run id of --run-id or --resume, or a new one; raises BadParameter."""
    if run_id is not None and resume is not None:
        raise typer.BadParameter("choose one of --run-id and --resume")
    given = run_id if resume is None else resume
    name = new_run_id() if given is None else given
    if not FORM.fullmatch(name):
        raise typer.BadParameter(f"{RULE}; found {name!r}")
    return name


def _own_files(job: JobSpec, folder: Path) -> dict[Path, str]:
    """The Python files of one's own, with their digests; folder: of the spec."""
    each = (sources(section) for section in job.own_code.values())
    return {folder / name: digest for files in each for name, digest in files.items()}


def _continuation(state: Restored) -> str:
    """What a run that extends another goes on with, in a line."""
    origin = state.manifest.values["origin"]
    where = f"goes on with run {origin['run']} after step {origin['step']}, epoch {origin['epoch']}"
    return f"{where}; {origin['schedule']}"


def _make_trainer(job: JobSpec, spec: Path, ranks: Ranks, store: str | None) -> Trainer:
    """The trainer of rank 0, which reads the data for all ranks.

    store: where the run that it starts from may be; None if it goes on from its own checkpoint.
    """
    from job.data.dataset import load
    from job.run.start_from import with_start
    from job.train.trainer import Trainer

    data = load(job, spec.resolve().parent, test=True)
    if store is not None:
        data = with_start(data, job, store)
    if ranks.world > 1:
        data.stats  # noqa: B018  # measured here, they are sent with the data, and no rank reads all
    ranks.broadcast(data)
    return Trainer(job, data, ranks)


def _join_ranks(job: JobSpec) -> Ranks:
    """Connect to the other ranks, each on the device that the spec asks for.

    Nothing is computed before: without a GPU of its own each rank would take memory on the first.
    """
    from job.distributed.device import wanted_device
    from job.distributed.ranks import join

    return join(os.environ, wanted_device(job.train))


def _train_along(job: JobSpec, ranks: Ranks) -> int:
    """Train as a rank other than 0, with the data that rank 0 sends; returns the exit code."""
    from job.data.dataset import Dataset
    from job.run.worker import train_along
    from job.train.trainer import Trainer

    data: Dataset | None = ranks.broadcast()
    assert data is not None
    return train_along(Trainer(job, data, ranks))


def handle_signals(handler: Callable[..., None]) -> None:
    """Let SIGTERM and SIGINT call a function."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


NOT_BEGUN = "interrupted before the run began; nothing was written"


def _end_at_once(*_: object) -> None:
    # No exception: while torch loads numpy it swallows any, and then goes on without either.
    os.write(2, f"{NOT_BEGUN}\n".encode())
    os._exit(INTERRUPTED)


def _interrupted(*_: object) -> None:
    print(NOT_BEGUN, file=sys.stderr)  # and temporary files are removed
    sys.exit(INTERRUPTED)


def connect_screen(screen: Live | Readable, attempt: RunAttempt) -> None:
    """Give a screen the store's URL, its outages, and the events before a resume."""
    recorder = attempt.recorder
    screen.store = recorder.store.url
    if isinstance(screen, Live):
        screen.offline = recorder.records.offline
        screen.earlier_events = lambda step: [
            *earlier_events(recorder.store, recorder.run, step),
            # All gates read so far, restored by now; no resume undoes what it restores.
            *({"seq": 0, **fields(gate)} for gate in attempt.training.verdict.results.values()),
        ]


def resume_command(
    spec: Path, run_id: str, store: str, control: bool = False, extend: str | None = None
) -> str:
    """The command that resumes a run."""
    flags = [] if store == "runs" else ["--store", store]
    flags += ["--control"] if control else []
    flags += [] if extend is None else ["--extend", extend]
    return shlex.join(["python", "-m", "job", "run", str(spec), "--run-id", run_id, *flags])


def finished_notice(store: Store, run: str, code: int) -> str:
    """A line that the run has finished, with the URL of its report if there is one."""
    page, exists = f"{run}/report.html", False
    with suppress(StoreError):
        exists = any(entry.key == page for entry in store.list(page))
    line = f"run {run.rpartition('/')[2]} has finished; its exit code was {code}"
    return f"{line}; report: {store.url}/{page}" if exists else line
