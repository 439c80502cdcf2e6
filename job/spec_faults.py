"""Pydantic's errors of a spec, told in plain words by JSON path."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from job.faults import Fault
from job.spec import CUDA, NAME, TASK_NAME
from job.spec_types import keys, locate, sections, simple_types, tags
from job.strict_json import NotFinite, Steps, json_path, shown

_PLAIN: dict[str, tuple[str, str]] = {
    "missing": ("a value is required here", "add it"),
    "int_type": ("must be a whole number", "write digits only, no quotes, no decimal point"),
    "float_type": ("must be a number", "write it without quotes"),
    "finite_number": ("must be a finite number", "write a smaller number"),
    "string_type": ("must be a string", "write it in double quotes"),
    "bool_type": ("must be true or false", "write true or false, without quotes"),
    "tuple_type": ("must be an array", "write its items in [ ]"),
    "dict_type": ("must be an object", "write its keys and values in { }"),
    "model_type": ("must be an object", "write its keys and values in { }"),
    "model_attributes_type": ("must be an object", "write its keys and values in { }"),
    "greater_than": ("must be greater than {gt}", "raise it"),
    "greater_than_equal": ("must be at least {ge}", "raise it"),
    "less_than": ("must be less than {lt}", "lower it"),
    "less_than_equal": ("must be at most {le}", "lower it"),
    "too_short": ("must have {min_length} or more items", "add what is missing"),
    "too_long": ("must have at most {max_length} items", "remove the surplus"),
    "string_too_short": ("must not be empty", "write a text between the quotes"),
}
"""Type of error: rule and remedy, with places for the error's context."""

_PATTERNS = {
    NAME: "must be 1 to 40 lower-case letters, digits and inner hyphens",
    TASK_NAME: "must be 1 to 64 letters, digits, _ and -, and begin with a letter or _",
    CUDA: 'must be a version such as "12.8"',
}
_JSON_TYPES = {
    bool: "boolean",  # before int, of which it is one
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
_NOTHING = "nothing"
_MISSING = object()


class _Told(NamedTuple):
    steps: Steps
    found: str
    rule: str
    remedy: str


def explain(error: ValidationError, tree: Any) -> Iterator[tuple[Steps, Fault]]:
    """Faults with their paths, from pydantic's errors about the decoded JSON `tree`.

    Numbers that are not finite are left out: reading the JSON has told of them.
    """
    before: Steps | None = None
    for detail in error.errors(include_url=False):
        for told in _told(detail, tree):
            # A value of several simple types has one error a type: one fault is enough.
            again = told.steps == before and detail["type"] != "rules"
            if not again and not isinstance(_at(tree, told.steps), NotFinite):
                yield told.steps, Fault(json_path(told.steps), *told[1:])
            before = told.steps


def _told(detail: ErrorDetails, tree: Any) -> Iterator[_Told]:
    steps, kind = locate(detail["loc"])
    match detail["type"]:
        case "rules":
            yield from _rules(steps, detail["ctx"], tree)
        case "extra_forbidden":
            yield _unknown_key(steps, keys(sections(locate(detail["loc"][:-1])[1])[0]), tree)
        case "union_tag_invalid" | "union_tag_not_found":
            kinds = [tag for section in sections(kind) for tag in tags(section)]
            yield _one_of((*steps, "kind"), kinds, tree)
        case "gate_kind":
            yield _gate(steps, [tag for section in sections(kind) for tag in tags(section)], tree)
        case "literal_error":
            yield _one_of(steps, get_args(simple_types(kind)[0]), tree)
        case "too_short" if len(_at(tree, steps)) >= detail["ctx"]["min_length"]:
            return  # pydantic counts valid items only; the invalid ones have their own faults
        case wrong:
            typed = wrong.endswith("_type")
            yield _Told(steps, _found(tree, steps, typed), *_rule(detail, simple_types(kind)))


def _rule(detail: ErrorDetails, simple: list[Any]) -> tuple[str, str]:
    """Rule and remedy of an error that concerns one value of one of the simple types."""
    if len(simple) > 1 and not sections(simple[0]):
        names = list(dict.fromkeys(_JSON_TYPES[one] for one in simple))
        return f"must be a {', '.join(names[:-1])} or {names[-1]}", "write one of these"
    context = {
        key: f"{value:.12g}" if isinstance(value, float) else value
        for key, value in detail.get("ctx", {}).items()
    }
    if detail["type"] == "string_pattern_mismatch":
        pattern = context["pattern"]
        return _PATTERNS.get(pattern, f"must match {pattern}"), "correct the spelling"
    if plain := _PLAIN.get(detail["type"]):
        return plain[0].format_map(context), plain[1]
    rule = detail["msg"].replace("Input should be", "must be")
    return rule[0].lower() + rule[1:], "correct it"


def _rules(steps: Steps, context: dict[str, Any], tree: Any) -> Iterator[_Told]:
    """The rules between a section's fields; what no one wrote is the default."""
    for broken in context["broken"]:
        where = (*steps, *broken.where)
        found = _found(tree, where)
        if found == _NOTHING:
            defaults = context["section"].model_dump(mode="json", by_alias=True)
            found = f"{_found(defaults, broken.where)} (the default)"
        yield _Told(where, found, broken.rule, broken.remedy)


def _unknown_key(steps: Steps, known: Sequence[str], tree: Any) -> _Told:
    meant = _did_you_mean(str(steps[-1]), known)
    remedy = meant or f"remove it; the keys here are {', '.join(known)}"
    return _Told(steps, _found(tree, steps), "there is no such key", remedy)


def _one_of(steps: Steps, options: Sequence[str], tree: Any) -> _Told:
    quoted = [shown(option) for option in options]
    several = len(quoted) > 1
    rule = f"must be one of {', '.join(quoted)}" if several else f"must be {quoted[0]}"
    remedy = "write one of these" if several else f"write {quoted[0]}"
    found = _found(tree, steps)
    if found == _NOTHING:
        return _Told(steps, found, rule, "add it")
    return _Told(steps, found, rule, _did_you_mean(found, quoted, "") or remedy)


def _gate(steps: Steps, options: Sequence[str], tree: Any) -> _Told:
    gate = _at(tree, steps)
    rule = f"a gate is an object with one of the keys {', '.join(options)}"
    meant = (_did_you_mean(key, options) for key in gate) if isinstance(gate, dict) else iter(())
    remedy = next(filter(None, meant), "add the key of what to measure")
    return _Told(steps, _found(tree, steps), rule, remedy)


def _did_you_mean(found: str, options: Sequence[str], quote: str = "`") -> str:
    """A question with the nearest option, or nothing where none is near."""
    lower = {option.lower(): option for option in options}
    near = difflib.get_close_matches(found.lower()[:100], lower, n=1)
    return f"did you mean {quote}{lower[near[0]]}{quote}?" if near else ""


def _found(tree: Any, steps: Steps, typed: bool = False) -> str:
    """What stands at a path, with its JSON type if that is what is wrong."""
    value = _at(tree, steps)
    if value is _MISSING:
        return _NOTHING
    name = next((name for kind, name in _JSON_TYPES.items() if isinstance(value, kind)), None)
    return f"{shown(value)} ({name})" if typed and name else shown(value)


def _at(tree: Any, steps: Steps) -> Any:
    for step in steps:
        try:
            tree = tree[step]
        except LookupError:
            return _MISSING
    return tree
