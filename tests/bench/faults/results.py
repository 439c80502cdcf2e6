"""What was measured so far: JSON lines in a folder, one for each step of a bench."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

FILE = "results.jsonl"


class Results:
    """The lines of a folder by step; a line that a killed bench cut off is left out."""

    def __init__(self, folder: Path, file: str = FILE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._lock = folder.resolve(), threading.Lock()
        self._file = self.folder / file
        self._lines: dict[str, dict[str, Any]] = {}
        for text in self._text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if "step" in line:  # else it is a header
                self._lines[line["step"]] = line

    def __contains__(self, step: str) -> bool:
        return step in self._lines

    def __getitem__(self, step: str) -> dict[str, Any]:
        return self._lines[step]

    def get(self, step: str) -> dict[str, Any] | None:
        """The line of a step, if it is done."""
        return self._lines.get(step)

    def add(self, step: str, line: dict[str, Any]) -> None:
        """Append the line of a step; from any thread."""
        with self._lock:
            start = "\n" if self._text()[-1:] not in ("", "\n") else ""
            with self._file.open("a", encoding="utf-8") as file:
                file.write(start + json.dumps({"step": step, **line}, allow_nan=False) + "\n")
            self._lines[step] = {"step": step, **line}

    def _text(self) -> str:
        return self._file.read_text("utf-8") if self._file.exists() else ""
