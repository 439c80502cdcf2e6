"""The search space: which values of a spec a search sets, each from a range or from choices."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from job.errors import Fault, InputError
from job.search.comparable import incomparable
from job.spec import JobSpec
from job.spec.faults.strict_json import decode, excerpt, text_faults
from job.spec.patch import Edit, Json, applied
from job.spec.read import parse_spec, read_text, with_digests

STEP = re.compile(r"""\.?([A-Za-z_$][\w$-]*)|\[(\d+)\]|\["([^"]+)"\]|\[([\w-]+)\]""")
"""A step of a path: a key, an index, a quoted key, or the name of an item of a list."""
FIXED = {
    "name": "it names the folder of all trials",
    "label": "it says which trial a run is",
    "notes": "nothing depends on it",
    "extends": "a trial trains anew",
    "seed": "the best of several seeds is luck; `python -m job compare --seeds` measures it",
}
"""Values of a spec that no search sets, and why."""
BETWEEN = (3 - math.sqrt(5)) / 2
"""A share of any range of whole numbers at which no whole number lies: it is irrational."""


class Range(BaseModel):
    """Numbers from `low` to `high`, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    low: float
    high: float
    log: bool = False
    """Drawn evenly in the logarithm."""
    step: Annotated[float, Field(gt=0)] | None = None
    """Only `low` and what lies whole steps above it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        steps = (self.high - self.low) / self.step if self.step else 0.0
        for broken, rule in (
            (self.low >= self.high, "low must be below high"),
            (self.log and self.low <= 0, "with log, low must be above 0"),
            (self.log and self.step is not None, "log and step exclude each other"),
            (abs(steps - round(steps)) > 1e-6, "high must lie whole steps above low"),
        ):
            if broken:
                raise PydanticCustomError("rule", "{rule}", {"rule": rule})
        return self

    def holds(self, value: Any) -> bool:
        """True if the range has this value."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return self.low <= value <= self.high and abs(steps - round(steps)) < 1e-6


class Choices(BaseModel):
    """One of several JSON values, whole sections of a spec too."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    choices: Annotated[list[Any], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.by_label) < len(self.choices):
            rule = "two choices read the same"
            raise PydanticCustomError("rule", "{rule}", {"rule": rule})
        return self

    @property
    def by_label(self) -> dict[str, Any]:
        """The choices by the texts that stand for them in the study."""
        return {each if isinstance(each, str) else json.dumps(each): each for each in self.choices}


@dataclass(frozen=True)
class Dimension:
    """One value of the spec that the search sets."""

    name: str
    """Its path, as the file has it."""
    keys: tuple[str | int, ...]
    """Its path as keys from the top."""
    values: Range | Choices
    whole: bool = False
    """True of a range if the spec takes whole numbers alone."""

    @property
    def ends(self) -> list[Any]:
        """The values that are tried before the first trial: the range's ends, or every choice."""
        if isinstance(self.values, Choices):
            return self.values.choices
        return [_number(self.values.low), _number(self.values.high)]

    def edit(self, value: Any) -> Edit:
        """The edit of the spec for a value as the study has it."""
        if isinstance(self.values, Choices):
            return Edit(self.keys, self.values.by_label[value])
        return Edit(self.keys, int(value) if self.whole else value)


@dataclass(frozen=True)
class Space:
    """All values that a search sets, in the order of the file, and the spec in which it does."""

    raw: Json
    """Content of the spec file."""
    folder: Path
    """Folder that the spec's relative paths refer to."""
    content: Json
    """Content of the space's file."""
    dimensions: tuple[Dimension, ...] = ()

    @cached_property
    def base(self) -> JobSpec:
        """The spec as it is; raises InputError."""
        return self.edited([])

    def edits(self, values: Mapping[str, Any]) -> list[Edit]:
        """The edits of the spec for a trial's values by name."""
        return [each.edit(values[each.name]) for each in self.dimensions]

    def spec(self, values: Mapping[str, Any]) -> JobSpec:
        """The spec of a trial; raises InputError if its values do not go together."""
        return self.edited(self.edits(values))

    def edited(self, edits: Sequence[Edit]) -> JobSpec:
        """The spec with edits; raises InputError."""
        return with_digests(parse_spec(json.dumps(applied(self.raw, edits))), self.folder)

    def spec_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's values by name, as the spec has them."""
        return {each.name: each.edit(values[each.name]).value for each in self.dimensions}

    def of_the_spec(self) -> dict[str, Any] | None:
        """The values that the spec has now, as the study has them; None if the space lacks one."""
        found = {each.name: self._present(each) for each in self.dimensions}
        return None if None in found.values() else found

    def _present(self, dimension: Dimension) -> Any:
        if isinstance(dimension.values, Choices):
            labels = dimension.values.by_label
            same = (k for k in labels if self.edited([dimension.edit(k)]) == self.base)
            return next(same, None)
        value: Any = json.loads(self.base.canonical())
        with suppress(LookupError, TypeError):
            for key in dimension.keys:
                value = value[key]
            return value if dimension.values.holds(value) else None
        return None


def read_space(path: Path, raw: Json, folder: Path) -> Space:
    """The space in a file, for the spec of content `raw`.

    Raises InputError if a path leads nowhere, or if the spec refuses an end of a range or a choice.
    """
    content = decode(read_text(path), str(path))
    faults = [fault for _, fault in text_faults(content)]
    if not faults and not (isinstance(content, dict) and content):
        rule = 'a space is {"optimizer.lr": {"low": 0.0001, "high": 0.01, "log": true}, …}'
        faults = [Fault(str(path), excerpt(content), rule, "write one value of the spec or more")]
    if faults:
        raise InputError(faults)
    bare, dimensions = Space(raw, folder, content), []
    for name, entry in content.items():
        try:
            dimensions.append(_checked(bare, name, entry))
            _check_overridden(dimensions)
        except InputError as error:
            faults += [replace(f, where=f"{path}: {f.where}") for f in error.faults[:1]]
    if faults:
        raise InputError(faults)
    return replace(bare, dimensions=tuple(dimensions))


def _checked(space: Space, name: str, entry: Any) -> Dimension:
    """The dimension of an entry, whose ends the spec takes; raises InputError."""
    dimension = Dimension(name, _keys(name, space.raw), _values(name, entry))
    for end in dimension.ends:
        _try(space, dimension, end)
    if isinstance(dimension.values, Choices):
        return dimension
    low, high, step = dimension.values.low, dimension.values.high, dimension.values.step
    if not all(each.is_integer() for each in (low, high)):
        return dimension
    try:
        _try(space, dimension, low + (high - low) * BETWEEN)
    except InputError:
        if step is not None and not step.is_integer():
            rule, remedy = "the spec takes whole numbers here", "write a whole step"
            raise InputError([Fault(f"{name}.step", excerpt(step), rule, remedy)]) from None
        return replace(dimension, whole=True)
    return dimension


def _try(space: Space, dimension: Dimension, value: Any) -> None:
    """Raises InputError if the spec refuses a value, or if no trial that has it compares."""
    where = f"{dimension.name} = {excerpt(value)}"
    try:
        spec = space.edited([Edit(dimension.keys, value)])
    except InputError as error:
        faults = [replace(fault, where=f"{where}: {fault.where}") for fault in error.faults]
        raise InputError(faults) from None
    except (LookupError, TypeError, AttributeError):
        rule, remedy = "a path leads through the spec's sections", "name a value of the spec"
        raise InputError([Fault(dimension.name, "no such place", rule, remedy)]) from None
    if (fault := incomparable(spec, space.base, where)) is not None:
        raise InputError([fault])


def _check_overridden(dimensions: Sequence[Dimension]) -> None:
    """Raises InputError if the last one sets a value again that one before it has set."""
    *before, last = dimensions
    for each in before:
        if each.keys[: len(last.keys)] == last.keys:
            rule = f"it would undo what {each.name} sets"
            remedy = "remove one of them, or move the longer path behind the shorter one"
            raise InputError([Fault(last.name, "a path that comes too late", rule, remedy)])


def _keys(name: str, raw: Json) -> tuple[str | int, ...]:
    """A path as keys: `optimizer.lr`, `tasks[1].loss.delta`, `tasks[wear].loss.delta`.

    Raises InputError.
    """
    text, at, keys = name.removeprefix("$."), 0, list[str | int]()
    while at < len(text):
        step = STEP.match(text, at)
        if step is None:
            rule = "a path is keys and indexes, such as optimizer.lr or tasks[0].loss.delta"
            raise InputError([Fault(name, excerpt(text[at:]), rule, "correct the path")])
        key, index, quoted, item = step.groups()
        if item:
            keys.append(_index(name, raw, keys, item))
        else:
            keys.append(int(index) if index else key or quoted)
        at = step.end()
    if not keys:
        rule = "a path names a value of the spec, such as optimizer.lr"
        raise InputError([Fault(json.dumps(name), "no key", rule, "correct the path")])
    if keys[0] in FIXED:
        why = FIXED[str(keys[0])]
        raise InputError([Fault(name, "a value that is not searched", why, "remove it")])
    return tuple(keys)


def _index(name: str, raw: Any, keys: Sequence[str | int], item: str) -> int:
    """The index of the item of that name in the list at `keys`; raises InputError."""
    with suppress(LookupError, TypeError):
        for key in keys:
            raw = raw[key]
    items = raw if isinstance(raw, list) else []
    names = [each.get("name") for each in items if isinstance(each, dict)]
    if item not in names:
        known = ", ".join(str(each) for each in names if each)
        rule = f"there are {known}" if known else "there is no list of named items"
        raise InputError([Fault(name, excerpt(item), rule, "name one of these, or an index")])
    return names.index(item)


def _values(name: str, entry: Any) -> Range | Choices:
    if not isinstance(entry, dict):
        rule = 'each value has {"low": …, "high": …} or {"choices": […]}'
        raise InputError([Fault(name, excerpt(entry), rule, "write one of these")])
    model = Choices if "choices" in entry else Range
    try:
        return model.model_validate(entry)
    except ValidationError as error:
        raise InputError(list(_faults(name, entry, error))) from None


def _faults(name: str, entry: Json, error: ValidationError) -> Iterator[Fault]:
    for detail in error.errors(include_url=False):
        where = ".".join([name, *map(str, detail["loc"])])
        rule = detail["msg"].replace("Input should be", "must be")
        missing = detail["type"] == "missing"
        found = "nothing" if missing else excerpt(detail["input"] if detail["loc"] else entry)
        if detail["type"] == "extra_forbidden":
            rule = "a range has low, high, log and step; choices stand alone"
        yield Fault(where, found, rule[0].lower() + rule[1:], "correct it")


def _number(value: float) -> int | float:
    """A whole number as one: the spec may take no other."""
    return int(value) if math.isfinite(value) and value.is_integer() else value
