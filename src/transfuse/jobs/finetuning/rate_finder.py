"""Finds a learning rate by a range test: a short training whose rate rises by the same factor in every step, on a copy of the network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from transfuse.core import ranks
from transfuse.core.protocols import Views
from transfuse.core.types import DataSet, Model
from transfuse.engine.checkpoint import Checkpoints
from transfuse.engine.steppers.paced import Paced
from transfuse.errors import NumericsError
from transfuse.jobs.context import Context, read_figures
from transfuse.jobs.finetuning.pretrained import Course
from transfuse.jobs.rundir import remove, write_json
from transfuse.jobs.train.training import Lesson, teach
from transfuse.recipe.blocks import TrainBlock
from transfuse.recipe.finetune import FinetuneRecipe

STEPS = 100
LOWEST, HIGHEST = 1e-6, 1.0
SMOOTHING = 0.9  # of the loss's running mean
WORSE = 4.0  # times the least smoothed loss, where the curve ends
STAGE = "range test"


def obtain(
    context: Context, recipe: FinetuneRecipe, copied: Model, course: Course | None, data: DataSet, lesson: Lesson, views: Views
) -> float | None:
    """The learning rate for a training; None where the curve shows none. The range test's curve is kept in lr_finder/NAME.json.

    Only training samples are looked at, and the weights are those of a copy: the training that follows begins as if nothing had been.

    Args:
        context: the job.
        recipe: for BatchNorm.
        copied: a network of its own, which is spoilt.
        course: the policy that the copy is under; its last phase is tried. None: all of it learns, as a control does.
        data: for the task.
        lesson: the training; its name is the curve's.
        views: augmentation.
    """
    place = context.rundir.path / "lr_finder" / f"{lesson.name}.json"
    if not read_figures(place):
        tried = replace(
            lesson, stage=STAGE, begin=0, end=STEPS, metrics=place.with_suffix(".jsonl"), snapshots=0, train=_rising(lesson.train)
        )
        if course is not None:
            rates = course.phases[-1].rates
            tried = replace(tried, pace=lambda stepper: Paced(stepper, rates, recipe.batchnorm, course.head))
        _test(context, copied, data, tried, views, place)
    known = read_figures(place)
    _say(context, lesson.name, known)
    return known["lr"]


def _test(context: Context, copied: Model, data: DataSet, tried: Lesson, views: Views, place: Path) -> None:
    """Runs the range test and writes what it found. Of several processes all train, and the first one alone handles the files."""
    first, checkpoints = ranks.rank() == 0, Checkpoints(context.rundir.checkpoints / tried.run)
    if first:
        place.parent.mkdir(exist_ok=True)
        remove(tried.metrics)
        checkpoints.clear()  # of a test that was interrupted: it is short, and begins anew
    ranks.barrier()
    with suppress(NumericsError):  # the rate is too high by then, which is what the test is for
        teach(context, copied, data, tried, views)
    ranks.barrier()
    if first:
        checkpoints.clear()
        lines = [json.loads(line) for line in tried.metrics.read_text(encoding="utf-8").splitlines()]
        write_json(place, judged([line["loss"] for line in lines if line["kind"] == "train"]))
        remove(tried.metrics)
    ranks.barrier()


def rate_at(step: int) -> float:
    """The learning rate of the step-th step (from 0) of the test."""
    return HIGHEST * (LOWEST / HIGHEST) ** (1 - (step + 0.5) / STEPS)


def judged(losses: Sequence[float | None]) -> dict[str, Any]:
    """{"lr", "steepest", "curve": [[lr, loss, smoothed]]}: the rate at which the smoothed loss falls most steeply over log(lr).

    The smoothed loss is a running mean (0.9), corrected for its start; the curve ends where it is 4 times its least. The steepest fall
    before the least loss is the middle between a rate that moves nothing and one that is about to diverge (Smith, 2017, WACV,
    https://arxiv.org/abs/1506.01186, takes the begin of the fall and the end of it as bounds). lr is None where the loss never falls.
    """
    curve: list[list[float]] = []
    mean, least = 0.0, math.inf
    for step, loss in enumerate(losses):
        if loss is None or not math.isfinite(loss):
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed = mean / (1 - SMOOTHING ** (step + 1))
        least = min(least, smoothed)
        if smoothed > WORSE * least:
            break
        curve.append([rate_at(step), loss, smoothed])
    smooth = [point[2] for point in curve]
    bottom = smooth.index(min(smooth)) if smooth else 0
    slopes = [(smooth[place + 1] - smooth[place - 1], place) for place in range(5, bottom)]  # the first few means are of too little
    found = min(slopes, default=(0.0, 0))
    rate = curve[found[1]][0] if found[0] < 0 else None
    return {"lr": None if rate is None else float(f"{rate:.2g}"), "curve": [[float(f"{value:.6g}") for value in point] for point in curve]}


def _rising(train: TrainBlock) -> TrainBlock:
    name, settings = next(iter(train.optimizer.items()))
    return train.model_copy(
        update={
            "steps": STEPS,
            "epochs": None,
            "optimizer": {name: {**settings, "lr": HIGHEST}},
            "schedule": {"exponential": {"start": LOWEST / HIGHEST}},
            "ema": None,
            "compile": False,
            "checkpoint_seconds": math.inf,
            "stop": train.stop.model_copy(update={"minutes": None}),
        }
    )


def with_rate(train: TrainBlock, rate: float | None) -> TrainBlock:
    """The block with another peak learning rate; None leaves it."""
    if rate is None:
        return train
    name, settings = next(iter(train.optimizer.items()))
    return train.model_copy(update={"optimizer": {name: {**settings, "lr": rate}}})


def _say(context: Context, name: str, known: Mapping[str, Any]) -> None:
    if known["lr"] is None:
        context.say(f"{name}: the range test's loss never falls, so the learning rate stays as the optimizer has it")
    else:
        context.say(f"{name}: learning rate {known['lr']:.2g}, where the loss falls most steeply in a range test of {STEPS} steps")
