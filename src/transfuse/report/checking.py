"""Whether a summary.json still has the form that jobs write: a hand-edited or damaged one meets one message, not a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from transfuse.errors import RunError

Bounds = Annotated[list[float], Field(min_length=2, max_length=2)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Timing(_Part):
    p50: float


class _Latency(_Part):
    batch_1: _Timing | None = None


class _Model(_Part):
    metrics: dict[str, float | None]
    intervals: dict[str, Bounds] = {}
    samples: int | None = None
    parameters: float | None = None
    macs: float | None = None
    bytes: float | None = None
    latency_ms: _Latency | None = None
    reasons: dict[str, str] = {}


class _Transfer(_Part):
    gain: float | None = None
    gain_interval: Bounds | None = None
    agreement: float | None = None
    kl: float | None = None


class _Primary(_Part):
    name: str
    higher_is_better: bool


class _Errors(_Part):
    clean_error: float
    errors: dict[str, list[float]]
    mean_corruption_error: float


class _Robustness(_Part):
    models: dict[str, _Errors]


class _Limit(_Part):
    asked: float
    value: float | None = Field(alias="is")
    met: bool | None


class _Summary(_Part):
    job: str
    task: Literal["classification", "multilabel", "regression"]
    primary: _Primary
    models: dict[str, _Model] = {}
    teachers: dict[str, _Model] = {}
    transfer: _Transfer | None = None
    robustness: _Robustness | None = None
    runs: list[dict[str, Any]] = []
    budget: dict[str, _Limit] = {}


def check(summary: dict[str, Any], place: Path) -> None:
    """
    Raises:
        RunError: something isn't what a job writes; names the file and the key.
    """
    try:
        _Summary.model_validate(summary)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        shown = repr(first["input"])
        found = "is missing" if first["type"] == "missing" else f"is {shown[:60]}{'...' if len(shown) > 60 else ''}: {first['msg'].lower()}"
        fix = f"the file was edited by hand: delete it, and transfuse resume {place.parent} writes it anew"
        raise RunError(f"{key} {found}", where=str(place), fix=fix) from None
