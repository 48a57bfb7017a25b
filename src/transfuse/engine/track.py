"""metrics.jsonl: one JSON object per line, always on disk, cut back on resume to where the checkpoint was."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


class Jsonl:
    """Appends lines to a file; None keeps nothing.

    Args:
        path: the file, or None.
        run: "student", "control" or a teacher's name, written in each line.
        stage: of a training in several stages, written in each line; empty in the last stage, and left out there.
    """

    def __init__(self, path: Path | None, run: str, stage: str = ""):
        self.path, self.run, self.stage = path, run, stage

    def write(self, kind: str, values: dict[str, Any]) -> None:
        """Appends one line; numbers that JSON can't hold (NaN, inf) become null."""
        if self.path is None:
            return
        stage = {"stage": self.stage} if self.stage else {}
        line = json.dumps({"run": self.run, **stage, "kind": kind, **_finite(values)}, allow_nan=False)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def size(self) -> int:
        """Bytes written so far."""
        return self.path.stat().st_size if self.path is not None and self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Drops what was written after a checkpoint."""
        if self.path is not None and self.path.exists():
            with open(self.path, "r+b") as file:
                file.truncate(min(size, self.size()))  # somebody may have shortened it: truncating must not fill it up with zeros

    def forget(self) -> None:
        """Drops this run's lines of this stage, for a training that starts over."""
        if self.path is None or not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and _owner(line) not in ((self.run, self.stage), None)]
        self.path.write_text("".join(kept), encoding="utf-8")


def _owner(line: str) -> tuple[str, str] | None:
    """Run and stage of a line; None where it is none of ours."""
    try:
        row = json.loads(line)
        return row["run"], row.get("stage", "")
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
