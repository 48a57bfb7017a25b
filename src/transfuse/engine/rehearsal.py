"""Objectives tried once before training, on signals of the shapes that it will have: what can't work is met before anything is written."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.core import ranks
from transfuse.core.numerics import at_least_fp32
from transfuse.core.stages import stages_of
from transfuse.core.taps import Taps, undisturbed
from transfuse.core.types import Batch, Signals, Step, WeightedObjective
from transfuse.engine.rotations import TURNS
from transfuse.engine.steppers.supervised import seen_by
from transfuse.errors import ModelError, RecipeError

ENOUGH = 512  # samples of a batch that is surely large enough; tells an objective that wants more of them from one that can't work at all
MOST = 2**24  # numbers in the features of one try: those of large maps are shown of fewer samples, for relations take vectors
NEEDS_A_GRAPH = "does not require grad"  # torch's words where a loss is made of gradients, which nobody has outside a training step
FEW = 2  # samples that say as much as any number, where none is compared with another


def signals(network: nn.Module, inputs: Tensor, paths: Sequence[str]) -> Signals:
    """What a network says about a few samples, with the features at these paths; the network stays as it was."""
    with undisturbed(network):
        if not paths:
            return Signals(at_least_fp32(network(inputs)))
        logits, features = Taps(network, list(paths), inputs[:1])(inputs)
        return Signals(at_least_fp32(logits), features)


@dataclass(frozen=True)
class Rehearsal:
    """One step of a training, made of what few samples gave.

    Attributes:
        batch: a whole step's, over all ranks.
        network: the student's.
        student: its signals on a few samples.
        teachers: theirs, by name.
        peers: names of the networks that learn beside the student.
        pieces: into how many parts each step is split.
    """

    batch: Batch
    network: nn.Module
    student: Signals
    teachers: Mapping[str, Signals]
    peers: Sequence[str] = ()
    pieces: int = 1

    def refuse(self, objectives: Sequence[WeightedObjective]) -> None:
        """Tries copies of all objectives; random state stays as it was.

        Raises:
            RecipeError: one of them can't work in this job; says what would have to change.
        """
        for weighted in objectives:
            size = self.size(weighted)
            try:
                self.perform(weighted, size)
            except RuntimeError as error:
                if NEEDS_A_GRAPH not in str(error):
                    raise
            except (ModelError, ValueError) as error:
                what, fix = (error.what, error.fix) if isinstance(error, ModelError) else (str(error), None)
                raise RecipeError(what, f"objectives.{weighted.name}", fix or self._way_out(weighted, size)) from error

    def size(self, weighted: WeightedObjective) -> int:
        """How many samples an objective is shown: as many as relate to each other in training, or a few."""
        piece = max(1, len(self.batch) // self.pieces)
        alone = weighted.card.level != "batch" and self.batch.domains is None
        return min(piece, FEW) if alone else self._affordable(weighted, piece)

    def perform(self, weighted: WeightedObjective, size: int) -> None:
        """One look of an objective, all of its stages included, at a step of so many samples."""
        objective: Any = copy.deepcopy(weighted.objective).train()
        step = self.step(size)
        labels = {"labels", "hard_labels"} & set(weighted.card.needs)
        seen = seen_by(weighted, step, self.network, step.batch.labelled if labels else None)
        with _unnoticed():
            if hasattr(objective, "inspect"):
                objective.inspect(seen)
            if any(stage.kind == "prepare" for stage in stages_of(objective)):
                objective.prepare(seen)
            objective(seen)

    def step(self, size: int) -> Step:
        """A step of so many samples, in which the few that were looked at come again and again."""
        teachers = {name: _repeated(said, size) for name, said in self.teachers.items()}
        step = Step(self.batch.select(torch.arange(size) % len(self.batch)), _repeated(self.student, size), teachers)
        step.peers = dict.fromkeys(self.peers, step.student)
        return replace(step, second=step, rotations=tuple(step for _ in range(1, TURNS)))

    def _affordable(self, weighted: WeightedObjective, size: int) -> int:
        tapped = [self.student.features.get(path) for path in weighted.student_taps]
        tapped += [self.teachers[name].features.get(path) for name in weighted.teachers for path in weighted.taps_of(name)]
        numbers = sum(feature[0].numel() for feature in tapped if feature is not None)
        return min(size, max(FEW, MOST // max(1, numbers)))

    def _way_out(self, weighted: WeightedObjective, size: int) -> str:
        other = "leave it out, or choose another one: `transfuse ls objectives`"
        try:
            self.perform(weighted, self._affordable(weighted, ENOUGH))
        except (ModelError, ValueError):
            tapped = weighted.student_taps or weighted.teacher_taps
            return f"tap other features (`transfuse taps MODEL` prints them), {other}" if tapped else other
        split = f" divided by train.accumulate={self.pieces}" if self.pieces > 1 else ""
        return f"raise train.batch_size, here {len(self.batch)}{split}, or {other}"


def _repeated(said: Signals, size: int) -> Signals:
    return said.select(torch.arange(size) % len(said.logits))


@contextmanager
def _unnoticed() -> Iterator[None]:
    """Nothing of what is tried inside is seen outside: no gradient, no random draw, no word to other processes."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), ranks.alone():
        yield


def refuse_split(related: Sequence[str], pieces: int, allowed: bool, why: str) -> None:
    """Splitting a batch whose samples are related to each other.

    Args:
        related: names of the objectives that relate them.
        pieces: into how many parts the batch is split.
        allowed: whether the recipe accepts it.
        why: what asks for it.

    Raises:
        RecipeError: it changes what these objectives compute.
    """
    if pieces > 1 and related and not allowed:
        what = f"{why}: the batch would be split, but {', '.join(related)} relates all samples of a batch"
        raise RecipeError(what, where="train", fix="lower train.batch_size, or accept it with train.allow_batch_split=true")
