"""The line with which a container says why it ended: `exit 2: EVENGRAD_SPEC_HASH: …`."""

from __future__ import annotations

import re

from job.exit_codes import INTERRUPTED, PASSED

_LINE = re.compile(rf"(?:^(?:[\w.-]+: )?|; )(exit (?!(?:{PASSED}|{INTERRUPTED})\b)\d+(?:: .+)?)$")


def exit_line(text: str) -> str | None:
    """`exit N: reason` in a line of a container's log, or at the end of a message; else None.

    Codes that are no failures count as None: 0, and 75, after which the run goes on.
    """
    match = _LINE.search(text)
    return match[1] if match else None
