"""Opening whatever holds a network: run folders, exports, files, source strings."""

from __future__ import annotations

import json
from pathlib import Path

from transfuse import models
from transfuse.core.types import Model, ModelRequest
from transfuse.errors import ModelError

WEIGHTS = (".safetensors", ".pt2", ".pt", ".pth", ".th")


def open_anything(source: str | Path, trusted: bool = False) -> Model:
    """A run folder, a folder that an export wrote, a file of weights, an ONNX file, or a model source string.

    Args:
        source: which.
        trusted: a file that needs it (.pt2, pickles) may be opened although it can run code.

    Raises:
        ModelError: there is nothing to open, or the export didn't pass its verification.
    """
    path, request = Path(source).expanduser(), ModelRequest(trusted=trusted)
    if path.is_dir():
        found = exported_file(path)
        return models.open_model(f"run:{path}", request) if found is None else open_anything(found, trusted)
    if path.is_file() and path.suffix == ".onnx":
        return models.open_model(f"onnx:{path}", request)
    if path.is_file() and path.suffix in WEIGHTS:
        return models.open_model(f"file:{path}", request)
    return models.open_model(str(source), request)


def exported_file(folder: Path) -> Path | None:
    """The file that an export left in a folder; None where the folder is no export's.

    Raises:
        ModelError: it didn't pass its verification, or is gone.
    """
    verdict = folder / "verify.json"
    if not verdict.is_file():
        return None
    try:
        told = json.loads(verdict.read_text(encoding="utf-8"))
        file, passed, why = folder / str(told["file"]), told["passed"] is True, told.get("failures") or []
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ModelError(f"can't be read: {error}", str(verdict), "export again") from error
    if not passed:
        raise ModelError(f"this export didn't pass: {'; '.join(why)}", str(folder), f"export again; to look at it all the same: {file}")
    if not file.is_file():
        raise ModelError("the exported file is gone", str(file), "export again")
    return file
