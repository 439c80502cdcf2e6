"""Strict JSON: what a lenient parser accepts in silence becomes a fault with its path."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from job.errors import CONTROL, Fault, InputError

Steps = tuple[str | int, ...]
"""Path of a value in a JSON document: keys and indexes, from the root."""

DEEPEST = 64
_LONGEST_EXCERPT = 60
_MOST_DIGITS = 308  # a whole number of more digits may lie outside the range of floats


class Object(dict[str, Any]):
    """A JSON object with the keys that were written more than once."""

    repeated: tuple[str, ...] = ()


class NotFinite(float):
    """NaN, an infinity, or a number too large for a float; `token` is its spelling."""

    token: str

    def __new__(cls, token: str) -> NotFinite:
        """NaN or an infinity, with its spelling."""
        number = super().__new__(cls, token)
        number.token = token
        return number


def decode(text: str, where: str) -> Any:
    """The value of a JSON text; objects are `Object`, numbers out of range are `NotFinite`.

    Raises InputError, with line and column, if the text is no JSON or is nested too deeply.
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
            "values nested deeper",
            f"nothing in it may be nested more than {DEEPEST} deep",
            "remove the surplus brackets",
        )
        raise InputError([deep]) from None
    return tree


def text_faults(tree: Any) -> Iterator[tuple[Steps, Fault]]:
    """What JSON forbids or leaves open in a decoded tree, each with its path."""
    for steps, value in walk(tree):
        if isinstance(value, NotFinite):
            found = _shorten(value.token)
            rule, remedy = "numbers must be finite", "write a number, or leave the key out"
            yield steps, Fault(json_path(steps), found, rule, remedy)
        texts = [value] if isinstance(value, str) else value if isinstance(value, Object) else ()
        for text in texts:
            if broken := _character_rule(text):
                yield steps, Fault(json_path(steps), excerpt(text), *broken)
        for key in value.repeated if isinstance(value, Object) else ():
            found = f"the key {excerpt(key)} more than once"
            rule = "a key may stand only once in an object: the last would silently win"
            where = (*steps, key)
            yield where, Fault(json_path(where), found, rule, "keep one of them")


def _character_rule(text: str) -> tuple[str, str] | None:
    """The rule that a character of a text breaks, and the remedy; None if all are allowed."""
    if any("\ud800" <= c <= "\udfff" for c in text):
        rule = "text must be whole Unicode characters, here is half of a pair"
        return rule, "correct the \\u escape"
    if control := CONTROL.search(text):
        code = f"U+{ord(control[0]):04X}"
        return f"text must hold no control characters, here is {code}", "remove it"
    return None


def walk(value: Any, steps: Steps = ()) -> Iterator[tuple[Steps, Any]]:
    """Every value of a tree with its path, in the order of the file."""
    yield steps, value
    items = value.items() if isinstance(value, dict) else ()
    for step, inner in enumerate(value) if isinstance(value, list) else items:
        yield from walk(inner, (*steps, step))


def json_path(steps: Steps) -> str:
    """A path in JSONPath's spelling, e.g. `$.tasks[1].loss`."""
    return "$" + "".join(
        f".{step}"
        if isinstance(step, str) and re.fullmatch(r"[A-Za-z_$][A-Za-z0-9_$]{0,59}", step)
        else f"[{excerpt(step)}]"
        for step in steps
    )


def excerpt(value: Any) -> str:
    """A value as JSON on one line, shortened."""
    return _shorten(json.dumps(value, ensure_ascii=False))


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_EXCERPT else text[: _LONGEST_EXCERPT - 1] + "…"


def _object(pairs: list[tuple[str, Any]]) -> Object:
    made = Object(pairs)
    times = Counter(key for key, _ in pairs)
    made.repeated = tuple(key for key, n in times.items() if n > 1)
    return made


def _float(token: str) -> float:
    number = float(token)
    return number if math.isfinite(number) else NotFinite(token)


def _syntax(error: json.JSONDecodeError, where: str) -> Fault:
    """The fault of a text that is no JSON."""
    rest = error.doc[error.pos :].split("\n", 1)[0]
    rule, remedy = next(
        (rule, remedy) for start, rule, remedy in _RULES if error.msg.startswith(start)
    )
    special = (cure for form, cure in _REMEDIES if re.match(form, rest))
    return Fault(
        f"{where}, line {error.lineno}, column {error.colno}",
        excerpt(rest) if rest else "the end of the line",
        f"this is not JSON: {rule}",
        remedy or next(special, "correct the line"),
    )


_RULES = (
    ("Expecting property name", "a key in double quotes must stand here", ""),
    ("Expecting value", "a value must stand here", ""),
    ("Expecting ','", "a comma or a closing bracket must stand here", ""),
    ("Expecting ':'", "a colon must stand here, after the key", "add the colon"),
    ("Extra data", "nothing may follow the closing bracket", "remove it, or the bracket before it"),
    ("Invalid \\", "a backslash begins an escape that JSON lacks", "write a backslash as \\\\"),
    ("Invalid control", "a string must end on its line", "close it with a double quote"),
    ("Unterminated", "this string has no end", "close it with a double quote"),
    ("Illegal trailing comma", "a comma may not stand before a closing bracket", "remove it"),
    ("", "the text breaks its grammar", ""),
)
"""The beginning of the parser's message, the rule, and its remedy if the text does not matter."""

_REMEDIES = (
    ("True|False", "write true or false in lower case"),
    ("None|nil|undefined", "write null"),
    ("['‘’“”`]", "write texts and keys in double quotes"),
    ("//|#|/[*]", "remove the comment: JSON has none"),
    ("[]}]", "remove the comma before it, or add what is missing"),
    (",", "add what is missing before the comma"),
    ("_?[0-9]|[+.][0-9]", "write numbers like 1000, -0.5 or 1e-3"),
    ("[A-Za-z_]", "write texts and keys in double quotes"),
    ('"', "add the missing comma before it"),
    ("$", "close every bracket and string"),
)
"""The beginning of what cannot be read, and the remedy."""
