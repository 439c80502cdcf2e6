"""`python -m deploy.submit SPEC`: build, plan, confirm, rent, follow."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.command import Json, KeyFile, StoreUrl, Yes, client, confirm, out, say, serve, signals
from deploy.ends import (
    CANCELLED,
    DEADLINE,
    ERROR,
    FAILED,
    GATES_FAILED,
    INTERRUPTED,
    INVALID,
    LOST,
    NO_ACCESS,
    NO_GPU,
    OK,
    UNCONFIRMED,
    Stop,
)

if TYPE_CHECKING:  # what takes long to import is imported once the arguments are known to be right
    from deploy.book import Book, Keeper
    from deploy.follow import Ended
    from deploy.plan import Plan
    from deploy.plan_shown import Facts
    from deploy.prepare import Prepared
    from job.journal import Line
    from job.live import Live
    from job.show import Readable


def submit(
    spec: Annotated[
        Path | None, typer.Argument(metavar="SPEC", help="The job spec, a JSON file.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Instead of SPEC: go on with a run, in its own image."),
    ] = None,
    store: StoreUrl = None,
    repository: Annotated[
        str | None,
        typer.Option(
            envvar="EVENGRAD_REPOSITORY",
            help="Where the image is pushed, e.g. docker.io/me/evengrad.",
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(help="An existing image, REPOSITORY@sha256:…; nothing is built."),
    ] = None,
    build_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="For the Dockerfile, e.g. TORCH_CUDA=WHEEL; again for more. No place for secrets: "
            "the image tells its values to everybody.",
        ),
    ] = None,
    registry: Annotated[
        str | None, typer.Option(help="Id of the registry's credentials at RunPod.")
    ] = None,
    env_file: Annotated[
        Path | None, typer.Option(help="Variables for the container, NAME=value a line.")
    ] = None,
    rehearsals: Annotated[
        str, typer.Option(help="Store with local runs of the same spec.")
    ] = "runs",
    require_smoke: Annotated[
        bool, typer.Option("--require-smoke", help="Only if the last local run passed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="With --dry-run: ask nobody, docker included.")
    ] = False,
    print_request: Annotated[
        bool, typer.Option("--print-request", help="Print the first request, secrets hidden.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="End once the job has begun.")
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
    api_key_file: KeyFile = None,
) -> None:
    """Run a spec on RunPod, and follow it to its verdict.

    Ctrl-C before the job has begun leaves nothing behind; after that it only ends the following.
    """
    if (spec is None) == (resume is None):
        raise typer.BadParameter("give either SPEC or --resume RUN")
    if offline and not dry_run:
        raise typer.BadParameter("--offline goes with --dry-run alone")
    if build_arg and (image or resume):
        raise typer.BadParameter("--build-arg is for building: not with --image or --resume")
    from deploy.prepare import prepare

    prepared = prepare(
        spec=spec,
        resume=resume,
        store=store,
        repository=repository,
        image=image,
        build_arguments=build_arg or [],
        registry=registry,
        env_file=env_file,
        rehearsals=rehearsals,
        dry_run=dry_run,
        offline=offline,
        connect=lambda: client(api_key_file),
    )
    _print(prepared.plan, prepared.facts, as_json, dry_run, print_request)
    if require_smoke and not prepared.rehearsed:
        raise Stop(INVALID, f"--require-smoke: {prepared.facts.rehearsal}")
    if dry_run:
        return
    confirm(f"Submit for at most ${prepared.plan.worst_case:.2f}?", yes)
    ended, book = _run(prepared, detach, as_json)
    if as_json:
        out(_summary(ended, book))
    if ended.code:
        if ended.error:
            say(f"evengrad: {ended.state}: {ended.error}")
        raise typer.Exit(ended.code)


def _print(plan: Plan, facts: Facts, as_json: bool, dry_run: bool, request: bool) -> None:
    import json

    from rich.console import Console

    from deploy.plan_shown import WIDTH, print_plan
    from deploy.plan_shown import as_json as plan_json

    first = next((c for c in plan.candidates if c.why_not is None), None)
    body = plan.shown(first, 1) if request and first is not None else None
    console = Console(stderr=as_json, highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    if not (as_json and dry_run):
        print_plan(console, plan, facts)
    if as_json and dry_run:
        out(plan_json(plan, facts) | ({} if body is None else {"request": body}))
    elif body is not None:
        print(json.dumps(body, indent=2), file=sys.stderr if as_json else sys.stdout)


def _run(prepared: Prepared, detach: bool, as_json: bool) -> tuple[Ended, Book]:
    """Rent and follow; raises Stop."""
    from deploy.book import Book, Keeper
    from deploy.follow import Ended, Follower
    from deploy.life import Life
    from deploy.rent import Renter

    interrupted = signals()
    spec = prepared.spec
    store, api = prepared.store, prepared.api
    assert store is not None
    assert api is not None
    plan = prepared.plan.at(api.now())  # RunPod's clock: this machine's may be wrong
    book = Book(
        name=plan.name,
        run_id=plan.run_id,
        store=prepared.facts.store,
        spec_hash=plan.spec_hash,
        image=plan.image,
        registry=plan.registry,
        deadline=plan.deadline,
    )
    keeper = Keeper(store, book)
    before = keeper.read()
    with api:
        life = Life(store, book.run, api, say)
        if life.cancelled():
            raise Stop(CANCELLED, f"run {book.run_id} was cancelled; a cancelled run stays ended")
        if before is None:
            store.put(f"{book.run}/spec.json", spec.canonical().encode())
        keeper.write((before or book).model_copy(update={"deadline": plan.deadline}))
        renter = Renter(api, keeper, life, say, interrupted)
        attempt = renter.adopt(plan) or renter.rent(plan)
        if detach:
            ended = Ended(OK, "detached")
        else:
            sink = _sink(keeper, as_json)

            def show(events: Iterable[Line]) -> None:
                for event in events:
                    sink(event, "")
                sink.tick()

            follower = Follower(
                api, spec, plan, keeper, life, renter, show, say, interrupted
            )  # fmt: skip
            try:
                ended = follower.follow(attempt)
            finally:
                sink.close()
        if ended.state == "detached":
            _tell_detached(keeper.book)
        return ended, keeper.book


def _sink(keeper: Keeper, as_json: bool) -> Live | Readable:
    """Shows events as the job does; as lines on stderr where stdout is for JSON."""
    from rich.console import Console

    from job.frame import Rent
    from job.live import Live, shown
    from job.show import Readable

    if as_json:
        return Readable(Console(stderr=True, highlight=False))
    sink = shown()
    if isinstance(sink, Live):
        sink.store = keeper.book.store
        sink.rent = lambda: Rent(
            keeper.book.attempts[-1].cost,
            keeper.book.spent(datetime.now(UTC)),
            keeper.book.deadline,
        )
    return sink


def _tell_detached(book: Book) -> None:
    run, attempt = book.run_id, book.attempts[-1]
    price = "?" if attempt.cost is None else f"{attempt.cost:g}"
    say(f"detached: the job goes on in pod {attempt.pod_name} ({attempt.pod}), ${price}/h, until "
        f"{book.deadline:%Y-%m-%d %H:%M:%S} UTC at the latest")  # fmt: skip
    say(f"  python -m deploy.logs {run} -f\n  python -m deploy.status {run}\n"
        f"  python -m deploy.cancel {run}")  # fmt: skip


def _summary(ended: Ended, book: Book) -> dict[str, Any]:
    last = book.attempts[-1]
    return {
        "run": book.run,
        "run_id": book.run_id,
        "store": book.store,
        "state": ended.state,
        "error": ended.error or None,
        "exit_code": ended.code,
        "pod_id": last.pod,
        "pod_name": last.pod_name,
        "gpu": last.gpu,
        "cost_per_hour": last.cost,
        "spent_usd": round(book.spent(datetime.now(UTC)), 4),
        "pods": len([a for a in book.attempts if a.pod]),
        "deadline": book.deadline.isoformat(),
    }


if __name__ == "__main__":
    serve(
        *("submit", submit, OK, ERROR, INVALID, NO_GPU, NO_ACCESS, UNCONFIRMED, FAILED),
        *(CANCELLED, DEADLINE, LOST, GATES_FAILED, INTERRUPTED),
    )
