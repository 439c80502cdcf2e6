"""What a checkpoint keeps of an input, so that new samples are read as the training split was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from job.data.encoding.categories import Encoding
from job.data.encoding.codes import Codes
from job.data.encoding.encoders import Encoder, Stored, info_of_codes, info_of_columns
from job.data.encoding.input_info import InputInfo
from job.errors import Fault, InputError
from job.spec import Input


class InputForm(BaseModel):
    """The form of one input; what its categories stand for is kept beside it, by feature."""

    model_config = ConfigDict(frozen=True)

    shape: tuple[int, ...]
    """Of a sample, as the network gets it: positions, then features."""
    columns: tuple[str, ...] = ()
    """Columns of a table that it is made of, in order; () of an array."""
    texts: tuple[str, ...] = ()
    """Those of its columns, or of its features of codes, whose values are texts."""
    whole: float = 1.0
    """The value that means 1: 255 if the features are bytes."""

    @classmethod
    def of(cls, about: InputInfo, shape: Sequence[int]) -> InputForm:
        """The form of an input, whose samples have that shape."""
        return cls(shape=tuple(shape), columns=about.columns, texts=about.texts, whole=about.whole)

    def encoder(self, name: str, about: Input, levels: Mapping[str, Sequence[str]]) -> Encoder:
        """How the stored input of that name becomes features.

        levels: of each column of categories, and of each feature of codes.
        """
        if about.is_coded:
            codes = Codes({each: self._codes(each, levels[each]) for each in self._features(name)})
            return Encoder(about, info_of_codes(codes, bool(self.columns)), codes)
        if self.columns:
            made = Encoding(self.columns, {each: list(levels[each]) for each in self.texts})
            return Encoder(about, info_of_columns(made), made)
        return Encoder(about, InputInfo(whole=self.whole), None)

    def check(self, name: str, about: Input, stored: Stored, file: str) -> None:
        """Raise InputError unless the stored array of that name has the shape and unit of this."""
        if isinstance(stored, dict):
            return
        where = f"{file}, {about.source if isinstance(about.source, str) else name}"
        if tuple(stored.shape[1:]) != self.shape:
            found = f"samples of shape {list(stored.shape[1:])}"
            rule, remedy = f"training had {list(self.shape)}", "give the samples that shape"
            raise InputError([Fault(where, found, rule, remedy)])
        if (stored.dtype == np.uint8) != (self.whole != 1) and not about.is_coded:
            rule = f"in training 1 was the number {self.whole:g}"
            remedy = "give bytes (uint8)" if self.whole != 1 else "give floats"
            raise InputError([Fault(where, f"type {stored.dtype}", rule, remedy)])

    def _features(self, name: str) -> Sequence[str]:
        """Names of the features of codes."""
        if self.columns:
            return self.columns
        return [name] if self.shape[-1] == 1 else [f"{name} {i}" for i in range(self.shape[-1])]

    def _codes(self, feature: str, levels: Sequence[str]) -> pa.Array:
        """What each code of a feature stands for: texts, or whole numbers."""
        if feature in self.texts:
            return pa.array(levels, type=pa.string())
        return pa.array([int(level) for level in levels], type=pa.int64())
