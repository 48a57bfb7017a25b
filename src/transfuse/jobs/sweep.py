"""transfuse sweep: many students of one teacher, chosen on the validation split.

Every trial is an ordinary run with an ordinary run folder. The first one pays for the teacher (its training, where the recipe trains it,
and its answers); the others find them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from transfuse.core.protocols import Reporter, Silent
from transfuse.core.types import Progress
from transfuse.errors import DataError, ModelError, NumericsError, RecipeError, RunError, TransfuseError
from transfuse.evaluate import metrics
from transfuse.jobs import check as checking
from transfuse.jobs import lineage, series
from transfuse.jobs.context import Context, Live, Run, read_figures
from transfuse.jobs.distill import teacher_path
from transfuse.jobs.series import Member
from transfuse.jobs.trials import Trials, front, quietly, require_optuna
from transfuse.recipe.blocks import CacheBlock, TeacherBlock
from transfuse.recipe.schema import DistillRecipe, Recipe
from transfuse.recipe.sweep import SweepRecipe
from transfuse.recipe.trial import refuse_space, single, temperatures_tried, whole_numbers

_A_TRIALS_OWN = (NumericsError, RecipeError, ModelError, DataError)  # others (a full disk) would stop the next trial too
_OPENED = ("student", "teacher", "teachers", "augment")  # keys whose values only opening the models can judge


def run(recipe: SweepRecipe, reporter: Reporter | None = None, recipe_text: str | None = None, live: Live | None = None) -> Run:
    """Runs all trials.

    Raises:
        TransfuseError: the user's input has to change.
        KeyboardInterrupt: interrupted; the folder can be resumed.
    """
    require_optuna()
    context, resolved = series.begin(recipe, reporter, recipe_text, live, leaving(recipe))
    assert isinstance(resolved, SweepRecipe)
    return _runs(context, resolved)


def left_to_trials(recipe: SweepRecipe, resolved: Recipe) -> SweepRecipe:
    """The recipe that trials are made from: each decides its own `auto`, as values of the space may bear on it.

    But `space` needs the objectives by name, and trials that are to find each other's answers the same temperatures.
    """
    assert isinstance(resolved, SweepRecipe)
    cache = recipe.cache.model_copy(update={"temperatures": resolved.cache.temperatures})
    return recipe.model_copy(update={"objectives": resolved.objectives, "out": resolved.out, "cache": cache})


def leaving(recipe: Recipe) -> Callable[[Recipe], Recipe] | None:
    """What `series.begin` is to keep of a job, be it run once, on folds or with seeds: a sweep's `auto` is left to its trials."""
    return partial(left_to_trials, recipe) if isinstance(recipe, SweepRecipe) else None


def repeated(context: Context, resolved: Recipe) -> Recipe:
    """What runs on folds and with seeds are made from: the resolved recipe, but of a sweep the one that leaves `auto` to its trials.

    Raises:
        RunError: the file of that one is gone.
    """
    return series.kept_recipe(context) if isinstance(resolved, SweepRecipe) else resolved


def resume(context: Context, recipe: SweepRecipe) -> Run:
    """Goes on with the trials that are not over."""
    require_optuna()
    series.go_on(context)
    return _runs(context, recipe)


def check(recipe: SweepRecipe, reporter: Reporter, live: Live) -> tuple[Recipe, dict[str, str]]:
    """Checks the recipe as it is and every value of the space.

    Raises:
        TransfuseError: one of them would be refused; names the key.
    """
    require_optuna()
    base, reasons = checking.run(lineage.distillation(recipe, {"export": recipe.export}), reporter, live)
    assert isinstance(base, DistillRecipe)
    given = lineage.distillation(recipe, {"objectives": base.objectives})
    refuse_space(given, recipe.entries)
    for key, entry in recipe.entries.items():
        if isinstance(entry, list) and (key.split(".", maxsplit=1)[0] in _OPENED or key.endswith("_tap")):
            for value in entry:
                _check_value(given, key, value, live)
    resolved, reasons = series.decided(recipe, base, reasons, ())
    if recipe.sampler == "auto":
        reasons["sampler"] = "the space has only lists" if recipe.search == "grid" else "the space has a range"
    if recipe.trials is None:
        reasons["trials"] = "every combination of the lists" if recipe.search == "grid" else "the default"
    assert isinstance(resolved, SweepRecipe)
    temperatures = _shared_temperatures(recipe, given, resolved.cache, reasons)
    cache = resolved.cache.model_copy(update={"temperatures": temperatures})
    resolved = resolved.model_copy(update={"sampler": recipe.search, "trials": recipe.count, "cache": cache})
    for key in ("sampler", "trials"):
        if key in reasons:
            reporter.say(f"{key} = {getattr(resolved, key)}: {reasons[key]}")
    if temperatures != base.cache.temperatures:
        reporter.say(f"cache.temperatures = {', '.join(f'{value:g}' for value in temperatures or [])}: {reasons['cache.temperatures']}")
    return resolved, reasons


def _shared_temperatures(recipe: SweepRecipe, given: DistillRecipe, cache: CacheBlock, reasons: dict[str, str]) -> list[float] | None:
    """The temperatures that a cache of the largest logits keeps for all trials, so that the teacher is asked once; null where all are kept.

    Raises:
        RecipeError: a range of temperatures, or listed ones that cache.temperatures doesn't have.
    """
    if not isinstance(cache.top_k, int):
        return cache.temperatures
    tried = temperatures_tried(given, recipe.entries, cache.top_k)
    if recipe.cache.temperatures is None:
        reasons["cache.temperatures"] = "those of all trials, so that the teacher is asked once"
        return tried or None
    missing = ", ".join(f"{value:g}" for value in tried if value not in recipe.cache.temperatures)
    if missing:
        fix = "add them; or remove cache.temperatures, which then are all that trials ask for"
        raise RecipeError(f"trials soften the teacher at {missing} too, and the tail there can't be rebuilt", "cache.temperatures", fix)
    return recipe.cache.temperatures


def _check_value(given: DistillRecipe, key: str, value: Any, live: Live) -> None:
    try:
        checking.run(single(given, {key: value}), Silent(), live)
    except TransfuseError as error:
        where = f"space.{key}: {value}" + (f": {error.where}" if error.where else "")
        raise type(error)(error.what, where, error.fix) from error


@dataclass
class Watched(series.Within):
    """The reporter of one trial: hears the student's validations, and ends the trial where they are not worth going on.

    Attributes:
        trial: Optuna's.
        metric: what is validated.
        every: epochs between validations.
        warmup: share of the training before it may be stopped.
    """

    trial: Any
    metric: str
    every: float
    warmup: float

    def progress(self, progress: Progress) -> None:
        super().progress(progress)
        if progress.name != "student" or self.metric not in progress.values:
            return
        index = max(1, round(progress.epoch / self.every))  # validations are counted, as trials may have other batch sizes
        self.trial.report(progress.values[self.metric], index)
        if progress.step < progress.steps and progress.step >= self.warmup * progress.steps and self.trial.should_prune():
            raise Pruned(progress.epoch)


class Pruned(Exception):
    """A trial isn't worth going on with.

    Args:
        epoch: at which it was stopped.
    """

    def __init__(self, epoch: float):
        super().__init__(epoch)
        self.epoch = epoch


def _runs(context: Context, recipe: SweepRecipe) -> Run:
    given = series.kept_recipe(context)
    assert isinstance(given, SweepRecipe)
    assert recipe.train.stop.metric is not None
    metric, task = recipe.train.stop.metric, recipe.data.task
    assert task != "auto"
    higher = metrics.higher_is_better(task, metric)
    with quietly():
        trials = Trials(context.rundir.path, recipe, higher, whole_numbers(lineage.distillation(given, {}), recipe.entries))
        for number, trial, values in trials.each():
            member = _member(context, given, number, values)
            context.reporter.say(f"{member.name} ({number + 1} of {recipe.count}): {_shown(values)}")
            _one(context, recipe, trials, (number, trial), member)
        known = trials.known()
    entries = [_entry(context, given, trial, metric, task) for trial in known]
    finished = [entry for entry in entries if entry["state"] == "finished"]
    if not finished:
        reason = next((entry["reason"] for entry in entries if entry.get("reason")), "")
        raise RunError(f"no trial ran to its end: {reason}", where=str(context.rundir.path), fix="try other values")
    return _finish(context, recipe, entries, (metric, higher))


def _shown(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items())


def _member(context: Context, given: SweepRecipe, number: int, values: Mapping[str, Any]) -> Member:
    """One trial: the recipe with the values of its point; a teacher that is trained here is taken from the first trial."""
    shared = {} if number == 0 or not _one_teacher(given) else _trained_teachers(context, given)
    teachers = {"teachers": {**given.teachers, **{name: block for name, (block, _) in shared.items()}}}
    modules = {**context.live.teachers, **{name: module for name, (_, module) in shared.items()}}
    live = lineage.beside(context.live, modules, context.live.student)
    return Member(f"trial_{number}", single(lineage.distillation(given, teachers), values), dict(values), live)


def _one_teacher(given: SweepRecipe) -> bool:
    """Whether no key of the space changes how a teacher is trained."""
    return not any(key.split(".", maxsplit=1)[0] in ("teacher", "teachers", "data", "augment") for key in given.entries)


def _trained_teachers(context: Context, given: SweepRecipe) -> dict[str, tuple[TeacherBlock, Any]]:
    """Teachers that an earlier trial has trained, by name."""
    found = {}
    folders = sorted((context.rundir.path / series.RUNS).glob("trial_*"), key=lambda path: int(path.name.rpartition("_")[2]))
    for name, block in given.teachers.items():
        for folder in folders if block.train is not None else ():
            path = teacher_path(series.RunDir(folder), name)
            if path.exists() and path.with_suffix(".json").exists():
                found[name] = lineage.trained(path, context.live.teachers.get(name), block.preprocess)
                break
    return found


def _one(context: Context, recipe: SweepRecipe, trials: Trials, asked: tuple[int, Any], member: Member) -> None:
    """Runs a trial and notes how it ended."""
    number, trial = asked
    assert recipe.train.stop.metric is not None
    warmup = recipe.prune.warmup if recipe.prune is not None else 1.0
    watched = Watched(context, member.name, trial, recipe.train.stop.metric, recipe.train.evaluate_every, warmup)
    try:
        series.obtain(context, member, watched)
    except Pruned as pruned:
        trials.keep(trial, "stopped_at", round(pruned.epoch, 3))
        trials.over(number, "pruned")
        context.reporter.say(f"{member.name}: stopped at epoch {pruned.epoch:.1f}, its validation is below the median of the others")
    except _A_TRIALS_OWN as error:
        trials.keep(trial, "reason", f"{error.where}: {error.what}" if error.where else error.what)
        trials.over(number, "failed")
        context.reporter.say(f"{member.name} failed: {error}")
    else:
        folder = series.folder(context, member.name)
        assert recipe.data.task != "auto"
        trials.over(number, "finished", validation(folder.predictions / "student.npz", recipe.data.task, recipe.train.stop.metric))


def validation(predictions: Path, task: Any, metric: str) -> float:
    """A student's metric on the validation part, from its kept predictions.

    Raises:
        RunError: the file is absent or damaged.
    """
    try:
        with np.load(predictions, allow_pickle=False) as content:
            return float(metrics.score(task, metric, content["val_outputs"], content["val_labels"]))
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"can't be read: {error}", where=str(predictions), fix="delete that trial's folder and resume") from error


# the end


def _entry(context: Context, given: SweepRecipe, trial: Mapping[str, Any], metric: str, task: Any) -> dict[str, Any]:
    """A trial's line in the summary, with all that is known of it; test figures are taken out later where they don't belong."""
    name, values = f"trial_{trial['number']}", trial["values"]
    folder = series.folder(context, name)
    entry: dict[str, Any] = {
        "name": name,
        "path": f"{series.RUNS}/{name}",
        "state": trial["state"],
        "differs": values,
        **trial["attributes"],
    }
    if trial["state"] != "finished":
        return {**entry, "teacher_forwards": read_figures(folder.path / "ledger.json").get("teacher_forwards", 0)}
    summary = folder.read_summary()
    member = Member(name, given, values)
    found = {**series.entry(member, summary), "validation": {metric: validation(folder.predictions / "student.npz", task, metric)}}
    student = summary["models"]["student"]
    return {**found, "cost": {key: student[key] for key in ("parameters", "macs", "bytes", "latency_ms")}}


def _finish(context: Context, recipe: SweepRecipe, entries: list[dict[str, Any]], selection: tuple[str, bool]) -> Run:
    metric, higher = selection
    configurations = grouped(entries, metric)
    mark(configurations, higher)
    chosen = next(found for found in configurations if found["chosen"])
    by_name = {entry["name"]: entry for entry in entries}
    sign = 1 if higher else -1
    best = max(chosen["runs"], key=lambda name: sign * by_name[name]["validation"][metric])
    summaries = [series.folder(context, name).read_summary() for name in chosen["runs"]]
    shown = {name for found in configurations if found["front"] or found["chosen"] for name in found["runs"]}
    picked = by_name[best]
    summary = {
        **series.summed_up(recipe, [_for_all_to_see(entry, shown) for entry in entries], summaries, best),
        "series": "sweep",
        "selection": {"by": "validation", "metric": metric, "higher_is_better": higher, "sampler": recipe.search},
        "chosen": {**chosen, "run": best},
        "front": [found for found in configurations if found["front"]],
        "configurations": configurations,
        "models": picked["models"],
        "teachers": picked["teachers"],
        "transfer": picked["transfer"],
        **series.aggregated(summaries),
    }
    return series.deliver(context, recipe, best, summary)


def _for_all_to_see(entry: Mapping[str, Any], shown: set[str]) -> dict[str, Any]:
    """A trial's line; without test figures where it is neither chosen nor on the front, since nobody may choose by them."""
    if entry["state"] != "finished" or entry["name"] in shown:
        return dict(entry)
    kept = {key: value for key, value in entry.items() if key not in ("models", "teachers", "transfer")}
    return {**kept, "models": None, "reasons": {"models": "test figures are shown for the chosen trial and the Pareto front only"}}


def grouped(entries: Sequence[Mapping[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Trials that differ in nothing but `seed` are one configuration, whose validation is the mean over them.

    A configuration of which a seed was stopped or failed is left out: its mean would be that of the lucky ones.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        groups.setdefault(repr([(key, value) for key, value in entry["differs"].items() if key != "seed"]), []).append(entry)
    whole = [group for group in groups.values() if all(entry["state"] == "finished" for entry in group)]
    whole = whole or [[entry for entry in group if entry["state"] == "finished"] for group in groups.values()]
    return [
        {
            "runs": [entry["name"] for entry in group],
            "differs": {key: value for key, value in group[0]["differs"].items() if key != "seed"},
            "validation": fmean(entry["validation"][metric] for entry in group),
            "cost": _cost(group, entries),
        }
        for group in whole
        if group
    ]


def _cost(group: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a configuration's student costs; its latency is the median over all trials of a network of that kind, which is the same."""
    cost = group[0]["cost"]
    kind = [cost[key] for key in ("parameters", "macs", "bytes")]
    alike = [
        entry["cost"] for entry in entries if "cost" in entry and [entry["cost"][key] for key in ("parameters", "macs", "bytes")] == kind
    ]
    batch = {part: median(other["latency_ms"]["batch_1"][part] for other in alike) for part in ("p50", "p95")}
    return {**cost, "latency_ms": {**cost["latency_ms"], "batch_1": {**cost["latency_ms"]["batch_1"], **batch}}}


def mark(configurations: list[dict[str, Any]], higher: bool) -> None:
    """Marks the Pareto front of validation, size and latency, and the one that is chosen: best on validation, then smallest."""
    sign = 1 if higher else -1

    def point(found: Mapping[str, Any]) -> tuple[float, float, float]:
        cost = found["cost"]
        return sign * found["validation"], -float(cost["bytes"]), -float(cost["latency_ms"]["batch_1"]["p50"])

    points = {str(index): point(found) for index, found in enumerate(configurations)}
    on_front = front(points)
    best = max(points, key=lambda name: (points[name], -int(name)))
    for index, found in enumerate(configurations):
        found |= {"front": str(index) in on_front, "chosen": str(index) == best}
