"""`depth: auto`: policies are tried by successive halving on folds of the training part, and the best one is taken, with the reason."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold

from transfuse.core import ranks
from transfuse.core.types import DataSet, Progress, Samples
from transfuse.data.samples import subset
from transfuse.engine.loader import is_labelled
from transfuse.evaluate import metrics
from transfuse.jobs.context import Context, read_figures
from transfuse.jobs.finetuning import rate_finder
from transfuse.jobs.finetuning.phases import asked_live, follow
from transfuse.jobs.finetuning.pretrained import course_of, objectives_of, obtain_objectives, open_network
from transfuse.jobs.parts.pools import standardised
from transfuse.jobs.rundir import RunDir, remove, write_json
from transfuse.jobs.train.training import Lesson, order_of, steps_of, views_of
from transfuse.recipe.finetune import DepthBlock, FinetuneRecipe

FOLDER = "depth"


class _Within:
    """The reporter of a trial: progress under the trial's name, notes kept to itself."""

    def __init__(self, context: Context, name: str):
        self._context, self._name = context, name

    def say(self, text: str) -> None: ...

    def progress(self, progress: Progress) -> None:
        self._context.reporter.progress(replace(progress, name=self._name))

    def result(self, summary: Mapping[str, Any], path: Any) -> None: ...


def obtain(context: Context, recipe: FinetuneRecipe, data: DataSet) -> dict[str, Any]:
    """The chosen policy. What was tried is kept in depth.json; trials that are over are not repeated when a run is resumed.

    All candidates of a round have the same steps; the better half goes on to the next round with a fresh, longer training, until one is
    left. Rounds share the search's steps evenly. A candidate's figure is the mean over folds of the metric on the samples held out, at the
    end of its training; the validation part chooses nothing here, and the test part is not looked at.
    """
    assert recipe.depth is not None
    place = context.rundir.path / "depth.json"
    known = read_figures(place)
    if not known:
        known = _search(context, recipe, recipe.depth, data)
        if ranks.rank() == 0:
            write_json(place, known)
        ranks.barrier()
    context.say(f"depth: {known['why']}")
    return known["chosen"]


def _search(context: Context, recipe: FinetuneRecipe, depth: DepthBlock, data: DataSet) -> dict[str, Any]:
    whole = steps_of(recipe.train, order_of(_lesson(recipe, "student", standardised(data.train, data), context)))
    folds = list(_folds(data, depth.folds, recipe.seed))
    metric = recipe.train.stop.metric or metrics.primary(data.task)[0]
    sign = 1 if metrics.higher_is_better(data.task, metric) else -1
    names = _names(depth.candidates)
    left, rounds = list(names), []
    for count, steps in depth.rounds(whole):
        assert count == len(left)
        scores: dict[str, list[float]] = {}
        curves: dict[str, list[list[list[float]]]] = {}
        for name in left:
            found = [
                _trial(context, recipe, names[name], part, f"round{len(rounds) + 1}-{name}-fold{fold + 1}", steps, metric)
                for fold, part in enumerate(folds)
            ]
            scores[name], curves[name] = [one["score"] for one in found], [one["curve"] for one in found]
        ranked = sorted(left, key=lambda name: -sign * statistics.mean(scores[name]))  # stable: of equals the one that was named first
        rounds.append({"steps": steps, "scores": scores, "curves": curves})
        left = ranked[: math.ceil(len(ranked) / 2)] if len(ranked) > 2 else ranked[:1]
    return {"chosen": names[left[0]], "metric": metric, "why": _why(left[0], rounds, metric, sign), "rounds": rounds, "folds": len(folds)}


def _names(candidates: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Candidates by a name of their own: the policy's, numbered where it is there with several settings."""
    found: dict[str, dict[str, Any]] = {}
    for candidate in candidates:
        policy = next(iter(candidate))
        name, number = policy, 1
        while name in found:
            number += 1
            name = f"{policy}_{number}"
        found[name] = dict(candidate)
    return found


def _why(name: str, rounds: Sequence[Mapping[str, Any]], metric: str, sign: int) -> str:
    """One sentence on the choice, from the last round and those before."""
    parts = []
    for number, one in enumerate(rounds, 1):
        means = {candidate: statistics.mean(found) for candidate, found in one["scores"].items()}
        listed = ", ".join(f"{candidate} {mean:.4g}" for candidate, mean in sorted(means.items(), key=lambda pair: -sign * pair[1]))
        parts.append(f"round {number} ({one['steps']} steps): {listed}")
    return f"{name} is taken, best by mean {metric} on samples held out; {'; '.join(parts)}"


def _folds(data: DataSet, folds: int | None, seed: int) -> Iterator[DataSet]:
    """The data with a part of the training samples in the place of validation."""
    if folds is None:
        yield data
        return
    labels = data.train.labels
    usable = is_labelled(labels).nonzero()[:, 0].numpy()
    single = not labels.is_floating_point()
    dealer = (StratifiedKFold if single else KFold)(folds, shuffle=True, random_state=seed % 2**32)
    for kept, held in dealer.split(usable, labels[usable].numpy() if single else None):
        yield replace(data, train=_some(data.train, usable[kept]), val=_some(data.train, usable[held]))


def _some(samples: Samples, places: np.ndarray) -> Samples:
    return subset(samples, np.sort(places))


def _lesson(recipe: FinetuneRecipe, name: str, pool: Samples, context: Context) -> Lesson:
    return Lesson(name, pool, [], recipe.train, recipe.seed, context.rundir.metrics)


def _trial(
    context: Context, recipe: FinetuneRecipe, policy: Mapping[str, Any], data: DataSet, name: str, steps: int, metric: str
) -> dict[str, Any]:
    """{"score", "curve": [[step, value]]} of one candidate on one fold, as it is kept or from a training."""
    folder = RunDir(context.rundir.path / FOLDER / name)
    known = read_figures(folder.path / "trial.json") or _tried(context, recipe, policy, data, folder, steps, metric)
    if ranks.rank() == 0:
        remove(folder.checkpoints)  # two whole states, of which nobody goes on
    return known


def _tried(
    context: Context, recipe: FinetuneRecipe, policy: Mapping[str, Any], data: DataSet, folder: RunDir, steps: int, metric: str
) -> dict[str, Any]:
    """Trains one candidate on one fold and keeps how well it does."""
    inner = Context(folder, _Within(context, folder.path.name), context.device, context.live)
    if ranks.rank() == 0:
        folder.path.mkdir(parents=True, exist_ok=True)
    ranks.barrier()
    stop = recipe.train.stop.model_copy(update={"minutes": None, "patience": None, "at": None})
    train = recipe.train.model_copy(update={"steps": steps, "epochs": None, "select": "last", "stop": stop, "ema": None})
    lesson = replace(_lesson(recipe, "student", standardised(data.train, data), inner), train=train)
    views = views_of(recipe.augment)
    if recipe.lr == "find":
        copied = open_network(recipe, data, inner)
        rate = rate_finder.obtain(
            inner,
            recipe,
            copied,
            course_of(policy, copied, data, recipe.seed),
            data,
            replace(lesson, objectives=_labels(recipe, inner)),
            views,
        )
    else:
        rate = recipe.lr
    lesson = replace(lesson, train=rate_finder.with_rate(train, rate))
    model = open_network(recipe, data, inner)
    objectives, start = obtain_objectives(inner, recipe, data, model)
    lesson = replace(lesson, objectives=objectives, teachers=asked_live(start, inner, recipe.train))
    course = course_of(policy, model, data, recipe.seed, recipe.batchnorm)
    follow(inner, recipe, model, course, data, lesson, views)
    rows = [json.loads(line) for line in inner.rundir.metrics.read_text(encoding="utf-8").splitlines()]
    curve = [[row["step"], row["metrics"][metric]] for row in rows if row["kind"] == "val"]
    known = {"score": curve[-1][1], "curve": curve}
    if ranks.rank() == 0:
        write_json(folder.path / "trial.json", known)
    ranks.barrier()
    return known


def _labels(recipe: FinetuneRecipe, context: Context) -> list[Any]:
    return [weighted for weighted in objectives_of(recipe, context) if not weighted.card.transfers]
