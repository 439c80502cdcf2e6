"""Text that is safe to print on a terminal, whoever wrote it."""

from __future__ import annotations

import re

from job.errors import CONTROL

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC, DCS, …
    r"|\x1b[ -/]*[0-~]?"
)
"""An escape sequence, whole or cut off."""


def printable(text: str) -> str:
    """The text on one line, without escape sequences and control characters.

    Every string of a record, a server or a pod's log passes here before it reaches a terminal.
    Tabs and line breaks become spaces.
    """
    plain = _SEQUENCE.sub("", text)
    return CONTROL.sub(lambda found: " " if found[0] in "\t\n\r\u2028\u2029" else "", plain)
