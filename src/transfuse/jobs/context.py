"""What the steps of one job hand to each other, and the run that they leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transfuse.core import ranks
from transfuse.core.protocols import Reporter, Silent
from transfuse.core.types import DataSet, Progress
from transfuse.jobs.rundir import RunDir, write_json
from transfuse.jobs.tracking import Trackers


@dataclass
class Live:
    """Objects that the caller handed over in place of the recipe's strings, by recipe key."""

    data: Any = None
    student: nn.Module | None = None
    teachers: Mapping[str, nn.Module] = field(default_factory=dict)
    objectives: Mapping[str, nn.Module] = field(default_factory=dict)
    peers: Mapping[str, nn.Module] = field(default_factory=dict)
    models: Mapping[str, nn.Module] = field(default_factory=dict)


@dataclass
class Context:
    """One job while it runs.

    Attributes:
        rundir: where it writes.
        reporter: who is told.
        device: where networks run.
        live: objects in place of strings.
        notes: what was said, kept for the report.
        while_training: called with every line of progress; keeps figures that a kill would lose.
        track: names of trackers.
    """

    rundir: RunDir
    reporter: Reporter = field(default_factory=Silent)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    live: Live = field(default_factory=Live)
    notes: list[str] = field(default_factory=list)
    while_training: Callable[[], None] | None = None
    track: tuple[str, ...] = ()

    @cached_property
    def trackers(self) -> Trackers:
        """Whoever is told the run's figures beside metrics.jsonl."""
        return Trackers(self.track, self.rundir.path, self.say)

    def say(self, text: str) -> None:
        """Tells the user and keeps it for the report; once, however often it is said."""
        if text not in self.notes:
            self.notes.append(text)
            if ranks.rank() == 0:
                self.reporter.say(text)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Inside, what is said waits until all has gone well: who is refused reads why, and not what a job would have done before that."""
        reporter, held = self.reporter, _Held(self.reporter)
        self.reporter = held
        try:
            yield
        finally:
            self.reporter = reporter
        for line in held.lines:
            reporter.say(line)

    def listen(self, progress: Progress) -> None:
        """A training loop's listener."""
        if progress.note:
            self.say(progress.note)
        if self.while_training is not None:
            self.while_training()
        if ranks.rank() == 0:
            self.reporter.progress(progress)

    def keep(self, name: str, value: Any) -> None:
        """Remembers a figure across an interruption (seconds, forwards)."""
        ledger = self.ledger
        if name in ledger and ledger[name] == value:
            return  # asked at every logged step, and writing waits for the disk
        ledger[name] = value
        if ranks.rank() == 0:
            write_json(self.rundir.path / "ledger.json", ledger)

    @property
    def ledger(self) -> dict[str, Any]:
        path = self.rundir.path / "ledger.json"
        return read_figures(path)


@dataclass
class _Held:
    """A reporter that passes progress on and keeps lines for later."""

    reporter: Reporter
    lines: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, progress: Progress) -> None:
        self.reporter.progress(progress)

    def result(self, summary: Mapping[str, Any], path: Path) -> None:
        self.reporter.result(summary, path)


def read_figures(path: Path) -> dict[str, Any]:
    """A run's own .json file that only informs (ledger, reasons); empty where it is absent or damaged, which costs no run its result."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class Run:
    """A finished run.

    Args:
        path: its folder.
        student: the trained network, if it is at hand; else it is opened from the folder.
    """

    def __init__(self, path: str | Path, student: nn.Module | None = None):
        self.path = Path(path)
        self._student = student

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json as a dictionary."""
        return RunDir(self.path).read_summary()

    @property
    def report(self) -> Path:
        """report.html."""
        return RunDir(self.path).report

    @property
    def student(self) -> nn.Module:
        """The trained student as a plain nn.Module in eval mode: preprocessed inputs in, logits out."""
        if self._student is None:
            from transfuse.core.types import ModelRequest
            from transfuse.models import open_model

            self._student = open_model(f"run:{self.path}", ModelRequest()).network
        return self._student

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"


def split_ready(data: DataSet) -> str:
    """One line on the sizes of a data set's parts."""
    extra = f", {len(data.unlabelled)} unlabelled" if data.unlabelled is not None else ""
    return f"{data.source}: {len(data.train)} train{extra}, {len(data.val)} validation, {len(data.test)} test samples"
