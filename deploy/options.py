"""Options that several commands have, and commands whose options are one frozen value."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

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
                 "~/.runpod/config.toml of `runpod config` or `runpodctl`."),
]  # fmt: skip
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Run id, name/run id, or a local run's folder.")
]

Options = TypeVar("Options")


def with_options(kind: type[Options], command: Callable[[Options], None]) -> Callable[..., None]:
    """A command with a parameter for each field of a dataclass, for typer to make flags of.

    The command itself takes one value of the dataclass.
    """

    @functools.wraps(command)
    def called(**values: Any) -> None:
        command(kind(**values))

    # A command is run as __main__, in whose place sys.modules may have another program.
    scope = {name: value for base in kind.__mro__[::-1] for name, value in _names(base).items()}
    hints = typing.get_type_hints(kind, scope | command.__globals__, include_extras=True)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]  # a dataclass, which no type says
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(field),
            annotation=hints[field.name],
        )
        for field in fields
    ]
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    called.__annotations__ = {field.name: hints[field.name] for field in fields}
    return called


def _names(base: type) -> dict[str, Any]:
    """The names in the module that defines a class."""
    return vars(sys.modules[base.__module__])


def _default(field: dataclasses.Field[Any]) -> Any:
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
