"""Writes a model as safetensors with a .json beside it that says how to open it again, and reads that .json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save

from transfuse.core.atomic import replacing
from transfuse.core.grafts import grafts_of
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import Model, Target
from transfuse.errors import ModelError
from transfuse.models.classes import Rescaled, SelectedOutputs

FORMAT = 1
DESCRIBED = (".safetensors", ".onnx", ".pt2")  # files that have a .json beside them


@dataclass
class Sidecar:
    """What the .json says; `select` are the chosen outputs of the stored network, where it has more than the model, `grafts` the layers
    that it has beside its architecture's, and `operators` the package that an exported graph's operators come from."""

    source: str = ""
    architecture: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    preprocess: Preprocess | None = None
    classes: list[str] | None = None
    target: Target | None = None
    select: list[int] | None = None
    grafts: list[dict[str, Any]] = field(default_factory=list)
    operators: str | None = None


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise ModelError(f"can't write: {error.strerror or error}", str(path), "free some space or choose another folder") from error


def save_model(model: Model, path: Path, extra: dict[str, Any]) -> None:
    """Writes `path` (.safetensors) and `path` with .json, each whole or not at all.

    Args:
        model: with a module; a table of predictions has none.
        path: ends in .safetensors.
        extra: more facts for the .json.

    Raises:
        ModelError: not a network, another ending, or the folder can't be written.
        ValueError: `extra` has a key of the .json's own.
    """
    path = Path(path)
    if model.module is None:
        raise ModelError("a table of predictions can't be saved as a network", where=model.source)
    if path.suffix != ".safetensors":
        raise ModelError("weights are written as .safetensors", where=str(path))
    network, select = model.module, None
    if isinstance(network, SelectedOutputs):
        network, select = network.network, network.outputs.tolist()
    facts = {**facts_of(replace(model, module=network)), "select": select}
    if facts.keys() & extra.keys():
        raise ValueError(f"extra repeats {sorted(facts.keys() & extra.keys())}")
    # cloned: tied weights share memory, which safetensors refuses
    state = {key: value.detach().cpu().contiguous().clone() for key, value in network.state_dict().items()}
    text = json.dumps({**facts, **extra}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with _replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with _replacing(path) as temporary:  # last: whoever finds the weights takes the model for whole
        temporary.write_bytes(save(state, metadata={"format": "pt"}))  # save_file would make it readable for its owner only


def facts_of(model: Model) -> dict[str, Any]:
    """What a .json beside a network's file says of it."""
    network = model.network
    return {
        "format": FORMAT,
        "source": model.source,
        "architecture": None if isinstance(network, Rescaled) else model.architecture,  # which has no place for what follows its outputs
        "options": model.options,
        "preprocess": None if model.preprocess is None else model.preprocess.to_dict(),
        "classes": model.classes,
        "target": None if model.target is None else asdict(model.target),
        "select": None,
        "grafts": grafts_of(network),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }


def read_sidecar(path: Path) -> Sidecar | None:
    """The .json beside a file of weights or an exported network; None where there is none.

    Raises:
        ModelError: it isn't JSON, or not of this kind.
    """
    place = path.with_suffix(".json")
    if path.suffix not in DESCRIBED or not place.is_file():
        return None
    try:
        facts = json.loads(place.read_text(encoding="utf-8"))
        if facts.get("format", FORMAT) > FORMAT:
            raise ModelError("written by a newer transfuse", str(place), "upgrade transfuse")
        return Sidecar(
            source=facts.get("source") or "",
            architecture=facts.get("architecture"),
            options=facts.get("options") or {},
            preprocess=Preprocess.from_dict(facts["preprocess"]) if facts.get("preprocess") else None,
            classes=facts.get("classes"),
            target=Target(**facts["target"]) if facts.get("target") else None,
            select=facts.get("select"),
            grafts=facts.get("grafts") or [],
            operators=facts.get("operators"),
        )
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise ModelError(f"can't be read: {error}", str(place), "write it again, or delete it and say architecture: …") from error
