"""What is laid side by side on one page: a model of a run or of an evaluation, with its numbers, its answers and its look."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from transfuse.errors import RunError
from transfuse.evaluate.outcomes import Outcomes, outcomes
from transfuse.report import words
from transfuse.report.collect import Curve, Predictions, RunFiles, collect, collect_frame, collect_rest
from transfuse.report.series import is_series, shipped

_LOOKS = (
    *(("student", "o"), ("control", "s"), ("teacher", "^"), ("peer", "D"), ("extra-2", "v"), ("extra-3", "P"), ("ink", "X")),
    ("muted", "*"),
)
MOST_LOOKS = len(_LOOKS)  # entries that can be told apart by colour and mark


@dataclass
class Entry:
    """One model.

    Attributes:
        label: what the page calls it.
        run: the folder that it comes from.
        model: its name in that summary.
        block: its block of the summary; for a job of several runs, means over them.
        number: its place on the page, which decides its look.
    """

    label: str
    run: RunFiles
    model: str
    block: Mapping[str, Any]
    number: int = 0
    spread: Mapping[str, Any] = field(default_factory=dict)

    @property
    def look(self) -> tuple[str, str]:
        """(colour, mark); beyond the eighth all look alike."""
        return _LOOKS[self.number] if self.number < MOST_LOOKS else ("muted", "o")

    @property
    def task(self) -> str:
        return self.run.task

    @property
    def primary(self) -> str:
        return self.run.summary["primary"]["name"]

    @property
    def main(self) -> bool:
        """Whether it is the one that the job is about: the student, or an evaluation's first model."""
        summary = self.run.summary
        if summary["job"] == "eval":
            return self.model == next(iter(summary["models"]))
        return self.model not in (summary.get("teachers") or {})

    @property
    def value(self) -> float | None:
        """The primary metric."""
        return (self.block.get("metrics") or {}).get(self.primary)

    @property
    def interval(self) -> list[float] | None:
        return (self.block.get("intervals") or {}).get(self.primary)

    @property
    def latency(self) -> float | None:
        return words.latency(self.block)

    @property
    def answers(self) -> Predictions | None:
        return self.run.predictions.get(self.model)

    @cached_property
    def outcomes(self) -> Outcomes | None:
        """Per-sample results; None where answers are missing or incomplete."""
        if self.answers is None:
            return None
        found = outcomes(self.task, self.answers.outputs, self.answers.labels)  # pyright: ignore[reportArgumentType]
        return None if found.defect else found

    @cached_property
    def tested_on(self) -> str | None:
        """Equal for entries that answered the same samples with the same labels."""
        if self.answers is None:
            return None
        text = "\0".join(map(str, self.answers.ids.tolist())).encode()
        return hashlib.blake2b(text + np.ascontiguousarray(self.answers.labels, np.float64).tobytes(), digest_size=8).hexdigest()

    @property
    def curve(self) -> Curve | None:
        """What it logged while it was trained."""
        return self.run.curves.get(self.model) or (self.run.curves.get("student") if self.model == "fused" else None)

    @property
    def rank(self) -> int:
        """Its number in the table: 1 is the best."""
        return self.number + 1

    @property
    def severities(self) -> list[int]:
        """Those at which it was shown corrupted pictures."""
        return (self.run.summary.get("robustness") or {}).get("severities") or [1, 2, 3, 4, 5]

    @property
    def robustness(self) -> Mapping[str, Any] | None:
        return ((self.run.summary.get("robustness") or {}).get("models") or {}).get(self.model)


def read_run(path: str | Path) -> RunFiles:
    """The folder of a run, of an evaluation or of a job of several runs.

    Raises:
        RunError: it holds no finished run, or its summary.json was damaged; names the file.
    """
    run = collect_frame(path)
    if not is_series(run.summary):
        return collect_rest(run)
    name = shipped(run.summary)
    if name is not None:  # the student is that of one of its runs, which has kept its answers
        try:
            inner = collect(run.path / name)
        except RunError as error:
            run.gaps.append(f"{name} can't be read: {error.what}")
            return run
        run.student, run.curves, run.predictions, run.gaps = inner.student, inner.curves, inner.predictions, run.gaps + inner.gaps
        run.sample_ids, run.sample_inputs = inner.sample_ids, inner.sample_inputs
    return run


def entries_of(run: RunFiles, label: str, teachers: bool = False) -> list[Entry]:
    """What a run brings to a page: its student (of an evaluation: all of its models), and its teachers where they are wanted."""
    summary = run.summary
    models: dict[str, Mapping[str, Any]] = dict(summary["models"])
    if not models:  # repeated runs: only their means are known
        return _means(run, label)
    if summary["job"] != "eval":
        main = next((name for name in ("student", "fused") if name in models), next(iter(models)))
        models = {main: models[main]}
    if teachers:
        models |= summary.get("teachers") or {}
    alone = len(models) == 1
    return [
        Entry((label or name) if alone else name if not label else f"{label}: {name}", run, name, block) for name, block in models.items()
    ]


def _means(run: RunFiles, label: str) -> list[Entry]:
    """The student of repeated runs: means over runs, with the interval of each mean."""
    aggregate = run.summary.get("aggregate") or {}
    found = ((aggregate.get("models") or {}).get("student") or {}).get("metrics") or {}
    if not found:
        return []
    first = next((entry["models"]["student"] for entry in run.summary["runs"] if (entry.get("models") or {}).get("student")), {})
    block = {
        **{key: first.get(key) for key in ("parameters", "macs", "bytes", "latency_ms")},
        "metrics": {name: spread["mean"] for name, spread in found.items()},
        "intervals": {name: spread["interval"] for name, spread in found.items() if spread.get("interval")},
    }
    return [Entry(f"{label} (mean of {aggregate.get('n', '?')})", run, "student", block, spread=found)]


def labels_of(paths: Sequence[Path]) -> list[str]:
    """Folders' names, with as many of the folders above as it takes to tell them apart."""
    absolute = [path.absolute() for path in paths]
    found: list[str] = []
    for depth in range(1, max(len(path.parts) for path in absolute) + 1):
        found = ["/".join(path.parts[-depth:]) for path in absolute]
        if len(set(found)) == len(set(absolute)):
            break
    return found


def numbered(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with their places on the page: the best first, those without a value last."""
    if not entries:
        return []
    sign = 1 if entries[0].run.summary["primary"]["higher_is_better"] else -1
    ordered = sorted(entries, key=lambda entry: (entry.value is None, -sign * (entry.value or 0.0)))
    for number, entry in enumerate(ordered):
        entry.number = number
    return ordered
