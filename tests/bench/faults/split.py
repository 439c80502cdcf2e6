"""Moves new cases to the half that the hash of their name says.

python -m tests.bench.faults.split FOLDER

It is run before any result of a case is looked at. The rule is tests.bench.faults.case.half_of.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.bench.faults.case import HERE, half_of


def main() -> None:
    """Move each JSON file of the folder."""
    for path in sorted(Path(sys.argv[1]).glob("*.json")):
        path.rename(HERE / half_of(path.stem) / path.name)


if __name__ == "__main__":
    main()
