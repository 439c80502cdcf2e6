"""Pydantic's errors about a spec, as faults: JSON path, finding, rule and remedy in plain words.

First the faults, then how to find the type at a path of a spec.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from job.errors import Fault
from job.spec.base import CUDA, NAME, RUNPOD_NAME, SECTION, TASK_NAME, VARIABLE, Section
from job.spec.faults.strict_json import NotFinite, Steps, excerpt, json_path
from job.spec.faults.suggest import nearest
from job.spec.job_spec import JobSpec
from job.spec.own_code import DIGEST, FILE, IDENTIFIER
from job.spec.training import GATES

_BRACES = "write its keys and values in { }"
_PLAIN: dict[str, tuple[str, str]] = {
    "missing": ("a value is required here", "add it"),
    "int_type": ("must be a whole number", "write digits only, such as 8"),
    "int_from_float": ("must be a whole number", "write digits only, such as 8"),
    "float_type": ("must be a number", "write digits, such as 0.5"),
    "finite_number": ("must be a finite number", "write a smaller number"),
    "string_type": ("must be a string", "write a text in double quotes"),
    "bool_type": ("must be true or false", "write true or false, without quotes"),
    "tuple_type": ("must be an array", "write its items in [ ]"),
    "dict_type": ("must be an object", _BRACES),
    "model_type": ("must be an object", _BRACES),
    "model_attributes_type": ("must be an object", _BRACES),
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
    VARIABLE: "must be the name of an environment variable, such as AWS_ACCESS_KEY_ID",
    FILE: "must be the path of a Python file, such as network.py",
    IDENTIFIER: "must be the name of a function",
    DIGEST: "must be a SHA-256 in hex",
    RUNPOD_NAME: "must be the name of a secret at RunPod, never its value",
}
_JSON_TYPES = {
    bool: "boolean",  # before int, of which it is one
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    tuple: "array",
    dict: "object",
}
_NOTHING = "nothing"
_MISSING = object()


class _Located(NamedTuple):
    """A fault with its path."""

    steps: Steps
    found: str
    rule: str
    remedy: str


def explain(error: ValidationError, tree: Any) -> Iterator[tuple[Steps, Fault]]:
    """Faults with their paths, from pydantic's errors about the decoded JSON `tree`.

    Numbers that are not finite are left out: they are faults of the text.
    """
    before: Steps | None = None
    for detail in error.errors(include_url=False):
        for located in _faults_of(detail, tree):
            # A value of several simple types has one error a type: one fault is enough.
            repeated = located.steps == before and detail["type"] != "rules"
            if not repeated and not isinstance(_value_at(tree, located.steps), NotFinite):
                yield located.steps, Fault(json_path(located.steps), *located[1:])
            before = located.steps


def _faults_of(detail: ErrorDetails, tree: Any) -> Iterator[_Located]:
    steps, kind = locate(detail["loc"])
    match detail["type"]:
        case "rules":
            yield from _broken_rules(steps, detail["ctx"], tree)
        case "extra_forbidden":
            known = keys(sections(locate(detail["loc"][:-1])[1])[0])
            yield _unknown_key(steps, known, tree)
        case "union_tag_invalid" | "union_tag_not_found" | "model_kind" | "optimizer_kind":
            kinds = [tag for section in sections(kind) for tag in tags(section)]
            yield _not_an_option((*steps, "kind"), kinds, tree)
        case "gate_kind":
            options = [tag for section in sections(kind) for tag in tags(section)]
            yield _no_gate(steps, options, tree)
        case "literal_error" if len(simple_types(kind)) == 1:
            yield _not_an_option(steps, get_args(simple_types(kind)[0]), tree)
        case "string_pattern_mismatch":
            yield _bad_name(detail, steps, tree)
        case name if _is_of_another_type(name) and _fits_one_of(kind, _value_at(tree, steps)):
            return  # what is wrong with the value has a fault of its own
        case "too_short" if len(_value_at(tree, steps)) >= detail["ctx"]["min_length"]:
            return  # pydantic counts valid items only; the invalid ones have their own faults
        case name:
            rule, remedy = _rule_and_remedy(detail, steps, kind, tree)
            yield _Located(steps, _describe(tree, steps, name.endswith("_type")), rule, remedy)


def _rule_and_remedy(detail: ErrorDetails, steps: Steps, kind: Any, tree: Any) -> tuple[str, str]:
    """Rule and remedy of an error about one value."""
    simple = simple_types(kind)
    several = len(simple) > 1 and not sections(kind)
    if several and not _fits_one_of(kind, _value_at(tree, steps)):
        names = list(dict.fromkeys(map(_type_name, simple)))
        rule = f"must be {', '.join(names[:-1])} or {names[-1]}"
        return rule, _one_of_several(simple, _value_at(tree, steps))
    if plain := _PLAIN.get(detail["type"]):
        context = {
            key: f"{value:.12g}" if isinstance(value, float) else value
            for key, value in detail.get("ctx", {}).items()
        }
        value = _value_at(tree, steps)
        remedy = _correction(detail["type"], value, kind) or plain[1]
        if value is None and not _is_required(detail["loc"]):
            remedy = "remove the key to use the default"
        return plain[0].format_map(context), remedy
    rule = detail["msg"].replace("Input should be", "must be")
    return rule[0].lower() + rule[1:], "correct it"


def _is_of_another_type(error: str) -> bool:
    """True for an error that says that a value is not of some type, or none of some values."""
    return error.endswith("_type") or error == "literal_error"


def _fits_one_of(kind: Any, value: Any) -> bool:
    """True if there are several simple types, and a value is an array, text or number of one."""
    types = [get_origin(one) or one for one in simple_types(kind)]
    if len(types) == 1 or isinstance(value, bool):
        return False
    of_json: dict[Any, Any] = {tuple: list, str: str, int: int, float: (int, float)}
    return any(isinstance(value, of_json[one]) for one in types if one in of_json)


def _one_of_several(simple: Sequence[Any], value: Any) -> str:
    """The remedy for a value that has none of several simple types."""
    words = [word for one in simple if get_origin(one) is Literal for word in get_args(one)]
    if isinstance(value, str) and (meant := nearest(value, words)):
        return f'did you mean "{meant}"?'
    listed = [simple_types(get_args(one)[0]) for one in simple if get_origin(one) is tuple]
    if isinstance(value, str) and any(str in items for items in listed):
        return f"write {' or '.join([*map(excerpt, words), f'[{excerpt(value)}]'])}"
    return "write one of these"


def _type_name(kind: Any) -> str:
    """What JSON calls a value of a simple type, with its article."""
    if get_origin(kind) is Literal:
        return " or ".join(map(excerpt, get_args(kind)))
    name = _JSON_TYPES[get_origin(kind) or kind]
    return f"an {name}" if name[0] in "ao" else f"a {name}"


def _broken_rules(steps: Steps, context: dict[str, Any], tree: Any) -> Iterator[_Located]:
    """The rules between a section's fields; a field that is not in the file has its default."""
    for broken in context["broken"]:
        where = (*steps, *broken.where)
        found = _describe(tree, where)
        if found == _NOTHING:
            defaults = context["section"].model_dump(mode="json", by_alias=True)
            found = f"{_describe(defaults, broken.where)} (the default)"
        yield _Located(where, found, broken.rule, broken.remedy)


def _unknown_key(steps: Steps, known: Sequence[str], tree: Any) -> _Located:
    key = str(steps[-1])
    if meant := nearest(key, known):
        remedy = f"did you mean `{meant}`?"
    elif home := next((at for at, names in _homes().items() if key in names), None):
        remedy = f"move it to {home}"
    else:
        remedy = f"remove it; the keys here are {', '.join(known)}"
    return _Located(steps, _describe(tree, steps), "there is no such key", remedy)


def _homes() -> dict[str, list[str]]:
    """JSON path and keys of each section that a spec has once; of several kinds, what all have."""
    homes = {}
    for name, field in JobSpec.model_fields.items():
        kinds = [keys(section) for section in sections(field.annotation)]
        if kinds and get_origin(field.annotation) is not tuple:
            homes[f"$.{name}"] = [key for key in kinds[0] if all(key in each for each in kinds)]
    return homes


def _not_an_option(steps: Steps, options: Sequence[str], tree: Any) -> _Located:
    quoted = [excerpt(option) for option in options]
    several = len(quoted) > 1
    rule = f"must be one of {', '.join(quoted)}" if several else f"must be {quoted[0]}"
    remedy = "write one of these" if several else f"write {quoted[0]}"
    value = _value_at(tree, steps)
    if value is _MISSING:
        remedy = "add it"
    elif isinstance(value, str) and (meant := nearest(value, options)):
        remedy = f'did you mean "{meant}"?'
    return _Located(steps, _describe(tree, steps), rule, remedy)


def _no_gate(steps: Steps, options: Sequence[str], tree: Any) -> _Located:
    gate = _value_at(tree, steps)
    rule = f"a gate is an object with one of the keys {', '.join(options)}"
    meant = [nearest(key, options) for key in gate] if isinstance(gate, dict) else []
    name = next(filter(None, meant), None)
    remedy = f"did you mean `{name}`?" if name else "add the key of what to measure"
    return _Located(steps, _describe(tree, steps), rule, remedy)


def _bad_name(detail: ErrorDetails, steps: Steps, tree: Any) -> _Located:
    """The fault of a text that has not the form of a name; a secret's value is not repeated."""
    pattern = detail["ctx"]["pattern"]
    rule = _PATTERNS[pattern]
    if detail["loc"][-1] == "[key]":
        return _Located(steps, f"the key {excerpt(steps[-1])}", rule, "correct the spelling")
    if pattern == RUNPOD_NAME:
        remedy = "make a secret at RunPod and write its name here"
        return _Located(steps, "a text that is no name", rule, remedy)
    remedy = "correct the spelling"
    if pattern in (NAME, TASK_NAME):
        value = str(_value_at(tree, steps))
        plain = re.sub("[^A-Za-z0-9]+", "-" if pattern == NAME else "_", value).strip("-_")
        plain = plain.lower()[:40].strip("-") if pattern == NAME else plain[:64]
        if re.fullmatch(pattern, plain):
            remedy = f'write "{plain}"'
    return _Located(steps, _describe(tree, steps), rule, remedy)


def _correction(error: str, value: Any, kind: Any) -> str | None:
    """What to write in place of a value of the wrong type, if that is certain."""
    match error, value:
        case "int_type" | "int_from_float", _:
            number = _number(value)
            whole = number is not None and number % 1 == 0 and abs(number) < 2**31
            return f"write {number:.0f}" if whole else None
        case "float_type", str():
            number = _number(value)
            return None if number is None else f"write {json.dumps(number)}"
        case "bool_type", str() | int():
            word = str(value).lower()
            if word in ("true", "yes", "on", "1"):
                return "write true"
            return "write false" if word in ("false", "no", "off", "0") else None
        case "string_type", bool() | int() | float():
            return f'write "{json.dumps(value)}"'
        case "tuple_type", str() | int() | float() if Ellipsis in get_args(simple_types(kind)[0]):
            return f"write [{excerpt(value)}]"
        case "tuple_type", dict():
            return "put it in [ ]"
        case "tuple_type", _ if Ellipsis not in (items := get_args(simple_types(kind)[0])):
            return f"write {len(items)} values in [ ]"
        case "model_type" | "model_attributes_type" | "dict_type", str():
            meant = nearest(value, [tag for section in sections(kind) for tag in tags(section)])
            return f'write {{"kind": "{meant}"}}' if meant and meant not in GATES else None
    return None


def _number(value: Any) -> int | float | None:
    """The finite number in a string, or that a float is; None if there is none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if not isinstance(value, str):
        return None
    text = value.strip().replace(",", ".") if value.count(",") == 1 else value.strip()
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return int(text) if re.fullmatch("[+-]?[0-9]{1,15}", text) else number


def _is_required(loc: tuple[str | int, ...]) -> bool:
    """True if the value at a location must be in the file."""
    if not loc or not isinstance(loc[-1], str):
        return True
    parent = sections(locate(loc[:-1])[1])
    field = _fields(parent[0]).get(loc[-1]) if len(parent) == 1 else None
    return field is None or field.is_required()


def _describe(tree: Any, steps: Steps, typed: bool = False) -> str:
    """The value at a path as JSON, with its JSON type if the type is what is wrong."""
    value = _value_at(tree, steps)
    if value is _MISSING:
        return _NOTHING
    name = next((name for kind, name in _JSON_TYPES.items() if isinstance(value, kind)), None)
    return f"{excerpt(value)} ({name})" if typed and name else excerpt(value)


def _value_at(tree: Any, steps: Steps) -> Any:
    for step in steps:
        try:
            tree = tree[step]
        except (LookupError, TypeError):
            return _MISSING
    return tree


# --- types at a path ----------------------------------------------------------------------------


def locate(loc: tuple[str | int, ...]) -> tuple[Steps, Any]:
    """JSON path of a pydantic location, and the type there.

    The location also holds the tags of unions. The spec's types tell tags from keys; the JSON alone
    cannot: a gate with the tag `drop` has a key `drop` too.
    """
    steps: Steps = ()
    kind: Any = JobSpec
    for part in loc:
        members = sections(kind)
        if len(members) == 1 < len(simple_types(kind)):  # a section, or a simple value
            others = [one for one in simple_types(kind) if one not in members]
            kind = members[0] if part == SECTION else others[0]
        elif len(members) > 1:
            plain = next((one for one in simple_types(kind) if one not in members), None)
            kind = next((member for member in members if part in tags(member)), plain)
        elif members or get_origin(simple_types(kind)[0]) in (tuple, dict):
            steps, kind = (*steps, part), _inner(simple_types(kind)[0], part)
        elif str(part).startswith("tuple["):  # the array among several simple types
            kind = next(one for one in simple_types(kind) if get_origin(one) is tuple)
        else:
            break  # one of several simple types
    return steps, kind


def simple_types(kind: Any) -> list[Any]:
    """The types that a value may have: without annotations, unions and null."""
    if get_origin(kind) is Annotated:
        return simple_types(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [one for part in get_args(kind) for one in simple_types(part) if one is not NoneType]
    return [kind]


def sections(kind: Any) -> list[type[Section]]:
    """The sections among the types that a value may have."""
    simple = simple_types(kind)
    return [one for one in simple if isinstance(one, type) and issubclass(one, Section)]


def tags(section: type[Section]) -> tuple[str, ...]:
    """What selects a section in a union: its kind, or the key that decides a gate's kind."""
    if kind := section.model_fields.get("kind"):
        return get_args(kind.annotation)
    return tuple(key for key in GATES if key in section.model_fields)


def keys(section: type[Section]) -> list[str]:
    """A section's keys as written in JSON."""
    return [field.alias or name for name, field in section.model_fields.items()]


def _fields(section: type[Section]) -> dict[str, FieldInfo]:
    """A section's fields by their keys in JSON."""
    return dict(zip(keys(section), section.model_fields.values(), strict=True))


def _inner(kind: Any, step: str | int) -> Any:
    """Type of a section's field or of a container's item; None if there is no such field."""
    inner = get_args(kind)
    if get_origin(kind) is dict:
        return inner[1]
    if get_origin(kind) is tuple:
        return inner[0] if Ellipsis in inner else inner[int(step)]
    field = _fields(kind).get(str(step))
    return None if field is None else field.annotation
