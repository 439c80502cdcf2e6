"""`python -m deploy.submit SPEC`: build, plan, confirm, rent, follow."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.app import catch_signals, client, confirm, run_command
from deploy.exits import (
    CANCELLED,
    DEADLINE,
    GATES_FAILED,
    INVALID,
    JOB_FAILED,
    LOST,
    NO_ACCESS,
    NO_GPU,
    NOT_FINISHED,
    NOT_FOUND,
    UNCONFIRMED,
    CommandError,
)
from deploy.options import Json, KeyFile, Yes, with_options
from deploy.output import log_line, print_json
from deploy.plan.submission import Submission

if TYPE_CHECKING:  # slow imports come once the arguments are known to be right
    from deploy.pods.follow import Outcome
    from job.record.pods import PodsRecord


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(Submission):
    """What is submitted, and how this command goes about it."""

    require_smoke: Annotated[
        bool, typer.Option("--require-smoke", help="Only if the last local run passed.")
    ] = False
    print_request: Annotated[
        bool, typer.Option("--print-request", help="Print the first request, secrets hidden.")
    ] = False
    detach: Annotated[bool, typer.Option("--detach", "-d", help="End once the job has begun.")] = (
        False
    )
    yes: Yes = False
    as_json: Json = False
    api_key_file: KeyFile = None


def submit(options: SubmitOptions) -> None:
    """Run a spec on RunPod, and follow it to its verdict.

    Ctrl-C before the job has begun leaves no pod behind; after that the job goes on without it.
    """
    _check_usage(options)
    from deploy.plan.prepare import prepare
    from deploy.plan.render import show_plan
    from deploy.pods.display import EventDisplay
    from deploy.pods.submit_run import submit_run

    prepared = prepare(options, lambda: client(options.api_key_file))
    show_plan(
        prepared.plan,
        prepared.context,
        as_json=options.as_json,
        dry_run=options.dry_run,
        request=options.print_request,
    )
    if options.require_smoke and not prepared.rehearsed:
        raise CommandError(INVALID, f"--require-smoke: {prepared.context.rehearsal}")
    if options.dry_run:
        return
    confirm(f"Submit for at most ${prepared.plan.worst_case:.2f}?", options.yes)
    outcome, record = submit_run(
        prepared,
        catch_signals(),
        None if options.detach else lambda registry: EventDisplay(registry, options.as_json),
    )
    if outcome.state == "detached":
        _log_detached(record)
    if options.as_json:
        print_json(_summary(outcome, record))
    if outcome.code:
        if outcome.error:
            log_line(f"evengrad: {outcome.state}: {outcome.error}")
        raise typer.Exit(outcome.code)


def _check_usage(options: SubmitOptions) -> None:
    """Raises BadParameter for options that exclude each other."""
    if (options.spec is None) == (options.resume is None):
        raise typer.BadParameter("give either SPEC or --resume RUN")
    if options.offline and not options.dry_run:
        raise typer.BadParameter("--offline goes with --dry-run alone")
    if options.build_arg and (options.image or options.resume):
        raise typer.BadParameter("--build-arg is for building: not with --image or --resume")


def _log_detached(record: PodsRecord) -> None:
    """Print what the job costs from now on, and the commands to come back to it."""
    from deploy.runpod.lookup import may_appear

    run, attempt = record.run_id, record.attempts[-1]
    price = "?" if attempt.cost is None else f"{attempt.cost:g}"
    log_line(f"detached: the job goes on in pod {attempt.pod_name} ({attempt.pod}), ${price}/h, "
             f"until {record.deadline:%Y-%m-%d %H:%M:%S} UTC at the latest")  # fmt: skip
    if unsure := [a.pod_name for a in record.attempts if may_appear(a)]:
        log_line(f"pod {', '.join(unsure)} may yet appear: run `python -m deploy.reap` in minutes")
    for command in (f"logs {run} -f", f"status {run}", f"cancel {run}"):
        log_line(f"  python -m deploy.{command}")


def _summary(outcome: Outcome, record: PodsRecord) -> dict[str, Any]:
    last = record.attempts[-1]
    return {
        "run": record.run,
        "run_id": record.run_id,
        "store": record.store,
        "state": outcome.state,
        "error": outcome.error or None,
        "exit_code": outcome.code,
        "pod_id": last.pod,
        "pod_name": last.pod_name,
        "gpu": last.gpu,
        "cost_per_hour": last.cost,
        "spent_usd": round(record.spent(datetime.now(UTC)), 4),
        "pods": len([a for a in record.attempts if a.pod]),
        "deadline": record.deadline.isoformat(),
    }


if __name__ == "__main__":
    run_command(
        *("submit", with_options(SubmitOptions, submit), NO_GPU, NO_ACCESS, UNCONFIRMED),
        *(JOB_FAILED, NOT_FINISHED, NOT_FOUND, CANCELLED, DEADLINE, LOST, GATES_FAILED),
    )
