"""What a training run is told, what it changes on its way, and what it leaves: the plain values around the loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """How to train, as plain values; see the recipe's `train` block for their meaning."""

    steps: int  # the step at which it ends
    seed: int
    first: int = 0  # the step at which it begins: order and views go on where an earlier stage ended
    optimizer: tuple[str, dict[str, Any]] = ("adamw", {})
    schedule: tuple[str, dict[str, Any]] = ("cosine", {})
    clip: float | None = None
    accumulate: int = 1
    ema: float | None = None
    fp16: bool = False
    evaluate_every: int = 0  # steps; 0: only at the end
    checkpoint_seconds: float = 30.0
    select: str = "best"
    metric: str = "accuracy"
    higher_is_better: bool = True
    stop_at: float | None = None
    patience: int | None = None
    minutes: float | None = None
    allow_batch_split: bool = False
    snapshots: int = 0  # how many of the best validated weights are kept beside the chosen ones


@dataclass
class State:
    """All that changes while training; a checkpoint holds it."""

    step: int = 0
    seconds: float = 0.0
    micro_batches: int = 1  # raised when memory runs out
    best: float | None = None
    best_step: int = 0
    best_weights: dict[str, Tensor] | None = None
    evaluations_since_best: int = 0
    stopped: str = ""
    pending: list[list[float]] = field(default_factory=list)  # term values since the last line of the log
    snapshots: list[dict[str, Any]] = field(default_factory=list)  # {"step", "goodness", "weights"}, best first


@dataclass
class Outcome:
    """What a finished training run was."""

    steps: int
    seconds: float
    stopped: str
    best_step: int
    best: float | None
    notes: list[str]
    snapshots: list[dict[str, Any]] = field(default_factory=list)
