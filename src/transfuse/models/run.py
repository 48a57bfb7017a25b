"""A network that an earlier job left in its run folder: `run:PATH`, `run:PATH#teacher`, `run:PATH#control`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from transfuse.core.registry import did_you_mean
from transfuse.core.types import Model, ModelRequest
from transfuse.errors import ModelError
from transfuse.models import file

PARTS = {"student": "student.safetensors", "teacher": "teacher.safetensors", "control": "control/student.safetensors"}


def open_model(name: str, request: ModelRequest) -> Model:
    """Opens the student (or teacher, or control) of a run.

    Raises:
        ModelError: no such folder, no such part, or the run has not written it.
    """
    whole = "#" not in name or Path(name).expanduser().is_dir()  # a folder's own name may have a #
    folder, hash_sign, part = (name, "", "student") if whole else name.rpartition("#")
    if part not in PARTS:
        raise ModelError(f"a run has no part '{part}'{did_you_mean(part, PARTS)}", f"run:{name}", f"parts: {', '.join(PARTS)}")
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ModelError("no such run folder", f"run:{name}", "give the folder that a job wrote (its `out`)")
    weights = path / PARTS[part]
    if not weights.is_file():
        there = [known for known, place in PARTS.items() if (path / place).is_file()]
        fix = f"it has: {', '.join(there)}" if there else f"is it finished? transfuse resume {folder}"
        raise ModelError(f"the run has no {PARTS[part]}", f"run:{name}", fix)
    model = file.open_model(str(weights), request)
    model.source = f"run:{folder}{hash_sign}{part if hash_sign else ''}"
    return model


def catalog() -> Mapping[str, str]:
    """How a run is named; there is nothing to choose from."""
    return {"PATH": "the student of a run folder; run:PATH#teacher and run:PATH#control for the others"}
