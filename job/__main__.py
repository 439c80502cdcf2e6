"""The job's command line: run, validate, schema, compare, diagnose."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from job.faults import InputError
from job.heartbeat import path_of
from job.last_word import told
from job.read_spec import parse_spec, read_spec, read_text
from job.read_spec import schema as spec_schema
from job.run_id import FORM, RULE, new_run_id
from job.spec import JobSpec
from job.torchrun import under_torchrun

if TYPE_CHECKING:
    from job.ranks import Ranks

# Loading torch takes seconds; what does without it must not pay. So the commands that train import
# it themselves.

FAILED, INVALID, FOUND, DEVICE_FAILED, INTERRUPTED = 1, 2, 7, 71, 75

app = typer.Typer(
    name="python -m job",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Train one network on several tasks, and say which one starves.\n\n"
    "Exit codes: 0 done, gates passed; 1 failed; 2 invalid spec, data or usage; 6 gates failed; "
    "7 of diagnose: something found; 75 interrupted, resumable with the same --run-id.",
)

Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="The job spec, a JSON file.")]
Json = Annotated[bool, typer.Option("--json", help="JSON lines instead of text.")]


@app.command()
def run(
    spec: Spec,
    store: Annotated[
        str, typer.Option(help="Where runs are kept: a directory, or s3://bucket/prefix.")
    ] = "runs",
    run_id: Annotated[
        str | None,
        typer.Option(help="Name of the run; an unfinished run of that name goes on."),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN_ID", help="The same, but the run must exist.")
    ] = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Do not wait for a holder that may be alive.")
    ] = False,
    grace: Annotated[
        float,
        typer.Option(min=0, max=86400, help="Seconds that a signal leaves for a last checkpoint."),
    ] = 5.0,
    as_json: Json = False,
    pretty: Annotated[
        bool, typer.Option("--pretty", help="Text even where the output is not a terminal.")
    ] = False,
) -> None:
    """Train a spec and end with the verdict of its gates."""
    if as_json and pretty:
        raise typer.BadParameter("choose one of --json and --pretty")
    if run_id is not None and resume is not None:
        raise typer.BadParameter("choose one of --run-id and --resume")
    named = run_id if resume is None else resume
    name = new_run_id() if named is None else named
    if not FORM.fullmatch(name):
        raise typer.BadParameter(f"{RULE}; found {name!r}")
    # Until the run has its own handlers nothing is lost by a signal: it is resumable at once.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupted)
    job = read_spec(spec)
    ranks = _meet(job) if under_torchrun(os.environ) else None
    if ranks is not None and ranks.rank > 0:
        raise typer.Exit(_train_along(job, ranks))

    from job.attended import command, has_finished, tell_more
    from job.claim import Finished, claim, finished_code
    from job.store import open_store

    where, key = open_store(store), f"{job.name}/{name}"
    code = finished_code(where, key, job)
    if code is not None:
        typer.echo(has_finished(where, key, code), err=True)
        raise typer.Exit(code)

    from job.data import load
    from job.journal import Sampled, print_line
    from job.live import shown
    from job.pod import own_pod
    from job.ranks import ALONE
    from job.run import Run
    from job.train import Training

    readable = shown() if pretty or (sys.stdout.isatty() and not as_json) else None
    lines = Sampled() if own_pod(os.environ) else print_line
    ranks, data = ranks or ALONE, load(job, spec.resolve().parent)
    ranks.broadcast(data)
    training = Training(job, data, ranks)

    def say(text: str) -> None:
        if readable is not None:
            readable.close()
        typer.echo(text, err=True)

    try:
        claimed = claim(where, job, key, take_over=take_over, must_exist=resume is not None)
        again = "" if path_of(os.environ) else command(spec, name, store)
        attempt = Run(training, claimed, name, [readable or lines], grace, again, say)
        if readable is not None:
            tell_more(readable, attempt)
        code = attempt.execute()
        if readable is not None and attempt.report:
            readable.say(f"report: {attempt.report}")
        raise typer.Exit(code)
    except Finished as finished:
        typer.echo(has_finished(where, key, finished.code), err=True)
        raise typer.Exit(finished.code) from None
    finally:
        if readable is not None:
            readable.close()


def _meet(job: JobSpec) -> Ranks:
    from job.device import settle
    from job.ranks import join

    return join(os.environ, settle(job.train))


def _train_along(job: JobSpec, ranks: Ranks) -> int:
    """Train as another rank than 0, which reads the data for all; returns its exit code."""
    from job.data import Dataset
    from job.follow import follow
    from job.train import Training

    data: Dataset | None = ranks.broadcast()
    assert data is not None
    return follow(Training(job, data, ranks))


def _interrupted(*_: object) -> None:
    print("interrupted before the run began; nothing was written", file=sys.stderr)
    sys.exit(INTERRUPTED)


@app.command()
def validate(
    spec: Spec,
    with_data: Annotated[
        bool, typer.Option("--data/--no-data", help="Check the spec against its data as well.")
    ] = True,
) -> None:
    """Say whether a spec is valid: nothing wrong, or one line per fault."""
    job = read_spec(spec)
    if with_data:
        from job.data import load
        from job.train import balancer

        data = load(job, spec.resolve().parent)
        balancer(job, data)
        counts = f"{len(data.train.features)} training, {len(data.validation.features)} validation"
        typer.echo(f"{spec}: valid; {counts} samples; content {job.content_hash()[:12]}")
    else:
        typer.echo(f"{spec}: valid, data not looked at; content {job.content_hash()[:12]}")


@app.command()
def schema(
    events: Annotated[
        bool, typer.Option("--events", help="Of a line of `run --json` instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of the spec."""
    from job.event_schema import schema as event_schema

    typer.echo(json.dumps(event_schema() if events else spec_schema(), indent=2))


@app.command()
def compare(
    specs: Annotated[list[Path], typer.Argument(metavar="SPEC...", help="Specs to compare.")],
    balance: Annotated[
        str, typer.Option(help="Balancers to try on each spec: kinds, or torchjd:NAME; by comma.")
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per row, from the spec's on.")] = 1,
    workers: Annotated[
        int, typer.Option(min=1, help="Runs at the same time, each on one thread.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Train specs, or each under several balancers, side by side; print one table.

    Means ± standard deviations over the seeds. drop: share that the loss fell since epoch 1.
    skill: 1 − loss / the strongest trivial prediction's. pull z, pull head: the task's mean
    weighted gradient norm over the last epoch, at the shared representation and at its head's
    output weights, over the geometric mean of all tasks': a task at 0.1 pulls a hundredth of one
    at 10. Exit code 1 where a run failed.
    """
    from job.compare import compare as run_all
    from job.compare import variants
    from job.summary import summary, table

    rows = variants({path: read_spec(path) for path in specs}, balance)
    results = run_all(rows, seeds, workers, progress=lambda text: typer.echo(text, err=True))
    if as_json:
        for row in summary(results):
            typer.echo(json.dumps(row, allow_nan=False))
    else:
        table(summary(results))
    if any(result.error for result in results):
        raise typer.Exit(FAILED)


@app.command()
def diagnose(
    spec: Spec,
    fix: Annotated[
        Path | None, typer.Option(metavar="OUT.json", help="Write the spec with all edits there.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Train spec and fixed spec; did predictions hold?")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Of --verify, from the spec's on.")] = 1,
    workers: Annotated[
        int, typer.Option(min=1, help="Of --verify: runs at the same time, a thread each.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Say why a task does not learn, as measured in short trainings, and which edit mends it.

    Findings come in the order in which one hides the next; each has its evidence, a remedy as JSON
    Patch (RFC 6902) of the spec, and its effect in a probe. Exit codes: 0 nothing found; 7
    something found; 1 failed, or a fixed run of --verify did; 2 invalid spec, data or usage.
    """
    from job import diagnosis_shown as shown
    from job import fixed
    from job.data import load
    from job.diagnose import diagnose as find
    from job.edit import edited
    from job.verify import verify as try_out

    text = read_text(spec)
    job, raw = parse_spec(text, str(spec)), json.loads(text)
    folder = spec.resolve().parent
    if fix is not None:
        fixed.check_free(fix)
    with shown.progress() as tick:
        found = find(job, load(job, folder), tick=tick)
    out, told = shown.console(), shown.as_json(found, raw)
    if not as_json:
        shown.show(out, found, raw)
    if verify and found.edits:
        mended = edited(job, found.edits)
        told["verified"] = try_out(found, job, mended, folder, seeds, workers, _tell)
        if not as_json:
            shown.show_verified(out, told["verified"])
    elif verify:
        _tell("nothing was verified: there is nothing to edit")
    if as_json:
        typer.echo(json.dumps(told, allow_nan=False))
    if fix is not None and found.edits:
        fixed.write(fixed.content(raw, found.edits, spec, fix), fix)
        _tell(f"wrote {fix}")
    elif fix is not None:
        _tell(f"{fix} was not written: there is nothing to edit")
    if told.get("verified", {}).get("failed"):
        raise typer.Exit(FAILED)
    raise typer.Exit(FOUND if found.findings else 0)


def _tell(text: str) -> None:
    typer.echo(text, err=True)


def main(argv: list[str] | None = None) -> Any:
    """Run a command; a user's fault becomes one line each on stderr and exit code 2.

    A run that cannot be taken or stored becomes one line and exit code 1. One rank of several
    tells its code past torchrun (job.last_word).
    """
    with told(os.environ):
        return _command(argv)


def _command(argv: list[str] | None) -> Any:
    from job.claim import Refused
    from job.document import Damaged, Fenced
    from job.lease import Held
    from job.store import StoreError

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an encoding may lack a character
    try:
        return app(argv)
    except (Refused, Held, Fenced, Damaged, StoreError) as refusal:
        print(f"evengrad: {refusal}", file=sys.stderr)
        sys.exit(FAILED)
    except (RuntimeError, MemoryError) as error:
        from job.device import device_fault

        if device_fault(error) is None:
            raise
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"evengrad: the device or its memory failed: {what}", file=sys.stderr)
        sys.exit(FAILED if path_of(os.environ) is None else DEVICE_FAILED)
    except InputError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        sys.exit(INVALID)


if __name__ == "__main__":
    main()
