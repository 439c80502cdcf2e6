"""JSON read strictly: what a lenient parser passes over in silence is a fault with its path."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from job.faults import Fault, InputError

Steps = tuple[str | int, ...]
"""Path of a value in a JSON document: keys and indexes, from the root."""

DEEPEST = 64
_LONGEST_SHOWN = 60
_MOST_DIGITS = 308  # a whole number of more digits may lie outside the range of floats


class Object(dict[str, Any]):
    """A JSON object that remembers which keys were written more than once."""

    repeated: tuple[str, ...] = ()


class NotFinite(float):
    """NaN, an infinity, or a number too large for a float, with its spelling."""

    token: str

    def __new__(cls, token: str) -> NotFinite:
        """Keep the spelling; the value is NaN or an infinity."""
        number = super().__new__(cls, token)
        number.token = token
        return number


def decode(text: str, where: str) -> Any:
    """The value of a JSON text, with `Object` for objects and `NotFinite` where it applies.

    Raises InputError, with line and column, where the text is no JSON or is nested too deeply.
    """
    try:
        tree = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=NotFinite,
            parse_float=_float,
            parse_int=lambda token: int(token) if len(token) <= _MOST_DIGITS else NotFinite(token),
        )
        if any(len(steps) > DEEPEST for steps, _ in walk(tree)):
            raise RecursionError
    except json.JSONDecodeError as error:
        raise InputError([_syntax(error, where)]) from error
    except RecursionError:
        deep = Fault(
            where,
            f"values nested more than {DEEPEST} deep",
            "nothing here is nested so deeply",
            "remove the surplus brackets",
        )
        raise InputError([deep]) from None
    return tree


def text_faults(tree: Any) -> Iterator[tuple[Steps, Fault]]:
    """What JSON forbids or leaves open in a decoded tree, each with its path."""
    for steps, value in walk(tree):
        if isinstance(value, NotFinite):
            yield (
                steps,
                Fault(
                    json_path(steps),
                    _shortened(value.token),
                    "numbers must be finite",
                    "write a number, or leave the key out",
                ),
            )
        texts = [value] if isinstance(value, str) else value if isinstance(value, Object) else ()
        for broken in filter(_is_broken, texts):
            yield (
                steps,
                Fault(
                    json_path(steps),
                    shown(broken),
                    "text must be whole Unicode characters, here is half of a pair",
                    "correct the \\u escape",
                ),
            )
        for key in value.repeated if isinstance(value, Object) else ():
            yield (
                (*steps, key),
                Fault(
                    json_path((*steps, key)),
                    f"the key {shown(key)} more than once",
                    "a key may stand only once in an object: the last would silently win",
                    "keep one of them",
                ),
            )


def walk(value: Any, steps: Steps = ()) -> Iterator[tuple[Steps, Any]]:
    """Every value of a tree with its path, in the order of the file."""
    yield steps, value
    items = value.items() if isinstance(value, dict) else ()
    for step, inner in enumerate(value) if isinstance(value, list) else items:
        yield from walk(inner, (*steps, step))


def json_path(steps: Steps) -> str:
    """A path as JSONPath spells it, e.g. `$.tasks[1].loss`."""
    return "$" + "".join(
        f".{step}"
        if isinstance(step, str) and re.fullmatch(r"[A-Za-z_$][A-Za-z0-9_$]{0,59}", step)
        else f"[{shown(step)}]"
        for step in steps
    )


def shown(value: Any) -> str:
    """A value as JSON on one line, shortened."""
    return _shortened(json.dumps(value, ensure_ascii=False))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def _object(pairs: list[tuple[str, Any]]) -> Object:
    read = Object(pairs)
    times = Counter(key for key, _ in pairs)
    read.repeated = tuple(key for key, n in times.items() if n > 1)
    return read


def _float(token: str) -> float:
    number = float(token)
    return number if math.isfinite(number) else NotFinite(token)


def _is_broken(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)


def _syntax(error: json.JSONDecodeError, where: str) -> Fault:
    rest = error.doc[error.pos :].split("\n", 1)[0]
    return Fault(
        f"{where}, line {error.lineno}, column {error.colno}",
        shown(rest) if rest else "the end of the line",
        f"this is not JSON: {error.msg[0].lower()}{error.msg[1:]}",
        "correct the line; JSON has no comments, no comma before a closing bracket and only "
        "double quotes",
    )
