"""The spec's `data` section: where samples come from."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from job.spec.base import PLAIN, SECTION, BrokenRule, Count, Positive, Section, Text
from job.spec.inputs import MASK, Input, InputName, Missing, Scaled

FEATURES = "features"
"""Name of an input that is the only one."""


class OhlcWindows(Section):
    """Windows of dated open/high/low/close bars, labelled by their strongest directional move."""

    kind: Literal["ohlc_windows"]
    """Windows of dated OHLC bars."""
    path: Text
    """CSV, CSV.gz or Parquet with columns date, open, high, low, close; relative to the spec."""
    date_format: Text | None = None
    """strptime format of the date column, e.g. `%m/%d/%Y`; null: ISO 8601."""
    window: Annotated[int, Field(ge=8, le=4096)] = 105
    """Bars in a window."""
    search: tuple[Count, Count] = (30, 74)
    """First and last bar of a window, counted from 0, between which an expansion is searched."""
    lengths: tuple[Count, Count] = (5, 20)
    """Shortest and longest expansion, in bars."""
    flat_below: Annotated[float, Field(ge=0)] = 2.0
    """An expansion weaker than this many standard deviations is of type `flat`."""
    countdown_clip: Positive = 20.0
    """The countdown to the expansion's start is clipped to ± this many bars."""
    windows: Annotated[int, Field(ge=2, lt=2**31)] | None = None
    """Number of windows, with evenly spaced starts; null: a window starts at every bar."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the windows, the latest ones, held out after a gap of one window."""

    def rules(self) -> Iterator[BrokenRule]:
        """Labels must fit into the window, and bars must come from a file."""
        if self.path.startswith("s3://"):
            yield BrokenRule(
                ("path",), "bars are read from a file", "download it and name the file"
            )
        first, last = self.search
        shortest, longest = self.lengths
        if last >= self.window:
            yield BrokenRule(
                ("window",),
                f"the search for the expansion ends at bar {last}, outside a window of "
                f"{self.window} bars",
                f"set window to at least {last + 1} or end the search earlier",
            )
        if longest < shortest:
            yield BrokenRule(
                ("lengths",), "the longest expansion is shorter than the shortest", "swap them"
            )
        if last - first + 1 < longest:
            yield BrokenRule(
                ("search",),
                f"an expansion of {longest} bars does not fit between bars {first} and {last}",
                "widen search or lower the longest of lengths",
            )


class SplitBy(Section):
    """A split that looks at the samples: one of the three keys."""

    LATER = ("stratified", "group", "column")
    stratified: Text | None = None
    """Name of a window task of classes: each class has the same share in every split."""
    group: Text | None = None
    """Name of an array or column [N] of groups: no group is in two splits."""
    column: Text | None = None
    """Name of an array or column [N] that says where a sample belongs: `train`, `validation` or
    `test`, or 0, 1 or 2. The shares are not used."""

    def rules(self) -> Iterator[BrokenRule]:
        """Exactly one key."""
        given = [name for name in self.LATER if getattr(self, name) is not None]
        if len(given) != 1:
            rule = f"a split has one of the keys {', '.join(self.LATER)}, not {len(given)}"
            yield BrokenRule((), rule, "keep one of them" if given else "add one of them")


class OtherFile(Section):
    """Samples in a file of their own."""

    path: Text
    """A file or a folder with the same arrays or columns as the first; it is not split."""


def _form(value: object) -> str:
    return SECTION if isinstance(value, dict | Section) else PLAIN


_FORM = Discriminator(_form)
_Share = Annotated[float, Field(gt=0, lt=1), Tag(PLAIN)]
_Held = Annotated[_Share | Annotated[OtherFile, Tag(SECTION)], _FORM]


class Arrays(Section):
    """Features and named targets of any domain, stored as arrays or as the columns of a table."""

    LATER = ("seed", "test", "missing", "inputs")
    kind: Literal["arrays"]
    """Stored arrays, or a table."""
    path: Text
    """.npz, .safetensors, .parquet, .csv or .csv.gz, relative to the spec, or s3://bucket/key; or a
    folder of shards, which stay on disk: a directory, or s3://bucket/prefix/."""
    features: Text | tuple[Text, ...] = "features"
    """Name of the features array: [N, T, F], or [N, F], which counts as T = 1. Of a table, a list
    of columns, by name or by pattern: `["age", "sensor_*"]`."""
    inputs: dict[InputName, Input] | None = None
    """In place of `features`, several inputs by name: numbers, codes, tokens, images."""
    validation: _Held = 0.2
    """Share of the samples held out, or another file."""
    test: _Held | None = None
    """Share of the samples that neither train nor stop or choose anything, or another file. The end
    of a run measures them, once."""
    split: Annotated[
        Annotated[Literal["random", "tail"], Tag(PLAIN)] | Annotated[SplitBy, Tag(SECTION)], _FORM
    ] = "random"
    """Which samples are held out: a random draw, or the last ones, if the order is one of time; or
    as a section says."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Seed of that draw; null: the job's seed."""
    scale: Scaled = "standardize"
    """Each feature to mean 0 and standard deviation 1, or to median 0 and interquartile range 1, as
    fitted on the training split; or as it is."""
    missing: Missing = "refuse"
    """What a missing value (NaN, an empty cell) of a feature is: a fault; the feature's mean in the
    training split; the same, beside a feature that is 1 where it is missing."""

    @property
    def named(self) -> dict[str, Input]:
        """Every input with its source, scale and missing; `features` if that is the only one."""
        given = self.inputs or {FEATURES: Input(source=self.features)}
        return {
            name: each.model_copy(
                update={
                    "source": name if each.source is None else each.source,
                    "scale": each.scale or self.scale,
                    "missing": each.missing or self.missing,
                }
            )
            for name, each in given.items()
        }

    @property
    def share(self) -> float:
        """Share of the file's samples for validation; 0 if they have a file of their own."""
        return 0.0 if isinstance(self.validation, OtherFile) else self.validation

    @property
    def test_share(self) -> float:
        """Share of the file's samples for the test; 0 without one, or with a file of its own."""
        return self.test if isinstance(self.test, float) else 0.0

    def rules(self) -> Iterator[BrokenRule]:
        """The shares leave something to train on, and one thing alone assigns the samples."""
        if self.share + self.test_share >= 1:
            rule = f"with validation = {self.share:g} nothing is left to train on"
            yield BrokenRule(("test",), rule, "lower one of the two")
        if isinstance(self.split, SplitBy) and self.split.column is not None:
            column = self.split.column
            if isinstance(self.validation, OtherFile):
                rule = f"column {column} says already which samples are for validation"
                yield BrokenRule(("validation",), rule, "remove one of the two")
            if self.test is not None:
                rule = f"column {column} says already which samples are for the test"
                yield BrokenRule(("test",), rule, "remove one of the two")
        for name, held_out in (("validation", self.validation), ("test", self.test)):
            if isinstance(held_out, OtherFile) and _same(held_out.path, self.path):
                rule = "the samples held out must not be those of the training"
                yield BrokenRule((name, "path"), rule, "name another file, or a share")
        files = [each.path for each in (self.validation, self.test) if isinstance(each, OtherFile)]
        if len(files) == 2 and _same(*files):
            rule = "the samples of the test must not be those of the validation"
            yield BrokenRule(("test", "path"), rule, "name another file, or a share")
        if not isinstance(self.features, str) and not self.features:
            yield BrokenRule(("features",), "must name one column or more", "name the columns")
        yield from self._input_rules()

    def _input_rules(self) -> Iterator[BrokenRule]:
        """There are inputs or features, and one padding at most."""
        if self.inputs is None:
            return
        if not self.inputs:
            yield BrokenRule(("inputs",), "must hold one input or more", "add one, or remove it")
        if self.features != FEATURES:
            rule = "inputs take the place of features"
            yield BrokenRule(("features",), rule, "remove one of the two")
        if MASK in self.inputs:
            rule = "the network gets the mask of positions by that name"
            yield BrokenRule(("inputs", MASK), rule, "give the input another name")
        padded = [name for name, each in self.inputs.items() if each.lengths or each.mask]
        if len(padded) > 1:
            key = "lengths" if self.inputs[padded[1]].lengths else "mask"
            rule = f"the inputs share their positions, and {padded[0]} says already which are real"
            yield BrokenRule(("inputs", padded[1], key), rule, "remove it")


def _same(one: str, other: str) -> bool:
    """True if two paths name one file."""
    return posixpath.normpath(one) == posixpath.normpath(other)


Data = Annotated[OhlcWindows | Arrays, Field(discriminator="kind")]


def data_files(data: OhlcWindows | Arrays) -> dict[str, str]:
    """Every file that the data is read from, by the JSON path that names it."""
    files = {"$.data.path": data.path}
    if isinstance(data, Arrays):
        others = {"validation": data.validation, "test": data.test}
        for name, other in others.items():
            if isinstance(other, OtherFile):
                files[f"$.data.{name}.path"] = other.path
    return files
