"""A network that an earlier job left in its run folder: `run:PATH`, or `run:PATH#PART`: teacher, control, fused, peer:NAME, head:NAME."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from transfuse.core.registry import did_you_mean
from transfuse.core.types import Model, ModelRequest
from transfuse.errors import ModelError
from transfuse.models import file
from transfuse.models.weights import Misfit

PARTS = {
    "student": "student.safetensors",
    "teacher": "teacher.safetensors",
    "control": "control/student.safetensors",
    "fused": "fused.safetensors",  # what a fusion made before it was distilled into the student
}
NAMED = {
    "peer:": "peers",  # a network that learnt beside the student
    "head:": "heads",  # the student's backbone with the head of another task
}
"""what a part begins with, before its name -> the folder of such networks"""


def open_model(name: str, request: ModelRequest) -> Model:
    """Opens the student (or teacher, control, a peer, or the network of another task) of a run.

    Raises:
        ModelError: no such folder, no such part, or the run has not written it.
    """
    whole = "#" not in name or Path(name).expanduser().is_dir()  # a folder's own name may have a #
    folder, hash_sign, part = (name, "", "student") if whole else name.rpartition("#")
    path = Path(folder).expanduser()
    if part not in PARTS and not part.startswith(tuple(NAMED)):
        known = f"parts: {', '.join(PARTS)}, {', '.join(f'{kind}NAME' for kind in NAMED)}"
        raise ModelError(f"a run has no part '{part}'{did_you_mean(part, PARTS)}", f"run:{name}", known)
    if not path.is_dir():
        raise ModelError("no such run folder", f"run:{name}", "give the folder that a job wrote (its `out`)")
    there = parts_in(path)
    if part not in there:
        if (runs := sorted((path / "runs").glob("*/student.safetensors"))) and not there:
            fix = f"choose one of its runs: run:{folder}/runs/{runs[0].parent.name}"
            raise ModelError("a job of several runs has no student of its own", f"run:{name}", fix)
        wanted = PARTS.get(part) or f"{part.replace(':', ' ')}{did_you_mean(part, there)}"
        fix = f"it has: {', '.join(there)}" if there else f"is it finished? transfuse resume {folder}"
        raise ModelError(f"the run has no {wanted}", f"run:{name}", fix)
    model = _open(there[part], request)
    model.source = f"run:{folder}{hash_sign}{part if hash_sign else ''}"
    return model


def _open(weights: Path, request: ModelRequest) -> Model:
    """The network of a run, whose .json says what it is: nobody who opens a run knows its architecture by heart.

    Raises:
        ModelError: the .json is gone, or names a network that the weights don't fit.
    """
    told = weights.with_suffix(".json")
    if not told.exists():
        what = f"is missing, and without it nobody knows which network {weights.name} belongs to"
        raise ModelError(what, str(told), "put it back: a run of the same recipe has the same one, and so has exports/safetensors")
    try:
        return file.open_model(str(weights), request)
    except ModelError as error:
        misfit = error.__cause__ if isinstance(error.__cause__, Misfit) else error
        if not isinstance(misfit, Misfit):
            raise
        what = f"names a network that {weights.name} doesn't fit: {misfit.counts}, the first being {misfit.example}"
        raise ModelError(what, str(told), "it was edited by hand: put it back as the run wrote it") from error


def parts_in(path: Path) -> dict[str, Path]:
    """The networks that a run folder holds: part -> file."""
    places = {part: path / place for part, place in PARTS.items()}
    for kind, folder in NAMED.items():
        places |= {f"{kind}{place.stem}": place for place in sorted((path / folder).glob("*.safetensors"))}
    return {part: place for part, place in places.items() if place.is_file()}


def catalog() -> Mapping[str, str]:
    """How a run is named; there is nothing to choose from."""
    return {"PATH": "the student of a run folder; run:PATH#teacher, #control, #peer:NAME and #head:NAME for the others"}
