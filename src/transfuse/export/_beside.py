"""The files that lie beside an exported network: what it is, and how its inputs are made, as JSON that any program can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from transfuse.core.atomic import replacing
from transfuse.core.preprocess import Preprocess
from transfuse.core.shipping import ExportRequest
from transfuse.models.saving import facts_of

Place = Literal["file", "graph"]  # where preprocessing is: described in preprocess.json, or inside the graph
STEM = "student"  # of every file that is shipped, as in a run folder


def describe(request: ExportRequest, file: Path, preprocess: Preprocess, extra: dict[str, Any]) -> None:
    """Writes student.json: class names, task, preprocessing, scaling of targets.

    Args:
        request: what was exported.
        file: what it was written to.
        preprocess: what has to happen before the file is asked.
        extra: more facts, or other values for known ones.
    """
    facts = facts_of(request.model) | {"task": request.task, "preprocess": preprocess.to_dict(), "file": file.name} | extra
    write_json(file.with_suffix(".json"), facts)


def write_json(path: Path, values: Any) -> None:
    """Whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
