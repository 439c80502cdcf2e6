"""What a user asks to be submitted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from deploy.options import StoreUrl


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A spec or an earlier run, where it is stored, and the image that it runs in."""

    spec: Annotated[
        Path | None, typer.Argument(metavar="SPEC", help="The job spec, a JSON file.")
    ] = None
    resume: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Instead of SPEC: resume a run, in its own image."),
    ] = None
    store: StoreUrl = None
    repository: Annotated[
        str | None,
        typer.Option(
            envvar="EVENGRAD_REPOSITORY",
            help="Where the image is pushed, e.g. docker.io/me/evengrad.",
        ),
    ] = None
    image: Annotated[
        str | None,
        typer.Option(help="An existing image, REPOSITORY@sha256:…; nothing is built."),
    ] = None
    build_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="For the Dockerfile, e.g. TORCH_CUDA=WHEEL; repeat it for more. Not for secrets: "
            "everybody who has the image can read its values.",
        ),
    ] = None
    registry: Annotated[
        str | None, typer.Option(help="Id of the registry's credentials at RunPod.")
    ] = None
    env_file: Annotated[
        Path | None, typer.Option(help="Variables for the container, NAME=value a line.")
    ] = None
    rehearsals: Annotated[str, typer.Option(help="Store with local runs of the same spec.")] = (
        "runs"
    )
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False
    offline: Annotated[
        bool, typer.Option("--offline", help="With --dry-run: ask no server, docker included.")
    ] = False
