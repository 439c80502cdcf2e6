"""The base class of all sections of a spec, and the types of their fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Size = Annotated[float, Field(ge=1e-38, le=1e38)]
"""A positive number that float32 can represent."""
MOST_UNITS = 65536
"""Outputs of a task, and units of a layer, at most."""
Units = Annotated[int, Field(ge=1, le=MOST_UNITS)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Text = Annotated[str, Field(min_length=1)]
NAME = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
TASK_NAME = r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$"
SHA256 = r"^[0-9a-f]{64}$"
CUDA = r"^[0-9]+\.[0-9]+$"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
PLAIN, SECTION = "plain", "section"
"""Tags of a field that is a simple value or a section."""
RUNPOD_NAME = r"^[A-Za-z0-9_./-]{1,191}$"


class BrokenRule(NamedTuple):
    """A rule between fields that a section breaks."""

    where: tuple[str | int, ...]
    """Path, from this section, of the field to edit."""
    rule: str
    """What the rule requires, and the values that break it."""
    remedy: str
    """What to edit."""


class Section(BaseModel):
    """Base class of all sections: frozen, strict types, no unknown keys, rules between fields."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    LATER: ClassVar[tuple[str, ...]] = ()
    """Fields that older specs do not know: the content leaves them out while they have their
    default, so that those specs keep their hash."""

    def rules(self) -> Iterator[BrokenRule]:
        """Yield each rule between fields that this section breaks."""
        yield from ()

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        if broken := list(self.rules()):
            text = "; ".join(each.rule for each in broken)
            raise PydanticCustomError(
                "rules", "{rules}", {"rules": text, "broken": broken, "section": self}
            )
        return self

    @model_serializer(mode="wrap")
    def _content(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        for name in self.LATER:
            if getattr(self, name) == type(self).model_fields[name].default:
                content.pop(name, None)
        return content
