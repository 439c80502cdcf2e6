"""Names of runs."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

FORM = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
RULE = "a run id is of a-z, 0-9 and -, at most 64"


def new_run_id() -> str:
    """Sortable by time, and not taken by another run of the same second."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
