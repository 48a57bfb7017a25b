"""Any job that trains, with `validate: {folds: 5}`: once on each fold, out-of-fold figures, and a last time on all.

A run on a fold never sees the fold's samples before its report, nor the test part at all; its validation part selects, as in any run. The
last run learns from the whole training part. What it reaches on the test part stands beside the folds' figures, and chose nothing. Of two
sets the target has the folds. A job of several runs (a sweep, a chain) is run whole on each fold, its choices included, and the answers of
the run that it ships are those of the fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfuse.core.protocols import Reporter
from transfuse.errors import RunError
from transfuse.evaluate.summary import model_summary, transfer_summary
from transfuse.jobs import check as checking
from transfuse.jobs import lineage, series, sweep
from transfuse.jobs.context import Context, Live, Run
from transfuse.jobs.rundir import RunDir, replacing
from transfuse.recipe.blocks import FoldBlock
from transfuse.recipe.schema import Recipe
from transfuse.report.series import is_series, shipped

REFIT = "refit"
OUT_OF_FOLD = "out_of_fold"  # the folder of predictions


def run(recipe: Recipe, reporter: Reporter | None = None, recipe_text: str | None = None, live: Live | None = None) -> Run:
    """Runs a job on each fold of its training part, then on all of it.

    Args:
        recipe: of a job that has folds, with `validate`.
        reporter: who is told what goes on; None: nobody.
        recipe_text: the user's YAML, kept word for word.
        live: objects in place of strings; every run is given the same.

    Raises:
        TransfuseError: the user's input has to change.
        KeyboardInterrupt: interrupted; the folder can be resumed.
    """
    context, resolved = series.begin(recipe, reporter, recipe_text, live, sweep.leaving(recipe))
    return _runs(context, resolved)


def check(recipe: Recipe, reporter: Reporter, live: Live) -> tuple[Recipe, dict[str, str]]:
    """Checks the job on its first fold, the export of the refit's student included.

    Raises:
        TransfuseError: it would be refused.
    """
    key = _folded(recipe)
    tried = members(recipe)[0].recipe.model_copy(update={"export": series.targets(recipe)})
    first, reasons = checking.run(tried, reporter, live)
    resolved, reasons = series.decided(recipe, first, reasons, ("validate",))
    return resolved.model_copy(update={key: _on_fold(getattr(resolved, key), None)}), reasons


def resume(context: Context, recipe: Recipe) -> Run:
    """Goes on with the runs that are not finished."""
    series.go_on(context)
    return _runs(context, recipe)


def members(recipe: Recipe) -> Sequence[series.Member]:
    """A run for each fold, and the last one on all of the training part. None exports: what is shipped is the series' student."""
    assert recipe.validate is not None
    key, count = _folded(recipe), recipe.validate.folds
    alone = recipe.model_copy(update={"validate": None, "export": []})
    planned = []
    for number in range(1, count + 1):
        block = _on_fold(getattr(recipe, key), FoldBlock(number=number, of=count))
        changed = alone.model_copy(update={key: block})
        planned.append(series.Member(f"fold_{number}", changed, {"held out": f"fold {number} of {count}"}))
    return [*planned, series.Member(REFIT, alone, {"held out": "nothing: figures of the test part"})]


def _folded(recipe: Recipe) -> str:
    assert recipe.folded is not None, "the recipe's validator refuses such a job"
    return recipe.folded


def _on_fold(block: Any, fold: FoldBlock | None) -> Any:
    return block.model_copy(update={"split": block.split.model_copy(update={"fold": fold})})


def _runs(context: Context, recipe: Recipe) -> Run:
    planned = members(sweep.repeated(context, recipe))
    summaries = series.run_all(context, planned)
    entries = [series.entry(member, summary) for member, summary in zip(planned, summaries, strict=True)]
    folds = [_answering(series.folder(context, member.name)) for member in planned[:-1]]
    summary = {
        **series.summed_up(recipe, entries, summaries),
        "series": "folds",
        "models": summaries[-1]["models"],
        "teachers": summaries[-1].get("teachers", {}),
        "transfer": summaries[-1]["transfer"],
        "out_of_fold": out_of_fold(context, folds, summaries[:-1]),
        **series.aggregated(summaries[:-1]),
    }
    return series.deliver(context, recipe, REFIT, summary)


def _answering(run: RunDir) -> RunDir:
    """The run whose answers are a fold's: of a job of several runs, that whose student is shipped."""
    summary = run.read_summary()
    inner = shipped(summary) if is_series(summary) else None
    return run if inner is None else _answering(RunDir(run.path / inner))


def out_of_fold(context: Context, folds: Sequence[RunDir], summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What every model said about each training sample while it was held out: kept, and measured as one set of samples.

    Intervals are over samples, and those of the gain are paired. They cover chance in the samples, not in training: models of different
    folds have learnt from much the same samples, so an interval over folds would be too narrow (Bengio, Grandvalet, 2004, JMLR 5,
    https://www.jmlr.org/papers/v5/grandvalet04a.html).

    Args:
        context: of the series.
        folds: folders of the runs that answer for the folds, in order.
        summaries: of these runs.
    """
    task, seed = summaries[0]["task"], summaries[0]["seed"]
    found: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    told = [*summaries[0]["models"], *(summaries[0].get("teachers") or {})]
    for name in [name for name in told if (folds[0].predictions / f"{name}.npz").exists()]:  # an ensemble of several runs has none
        parts = [lineage.answers(run, name) for run in folds]
        found[name] = tuple(np.concatenate([part[place] for part in parts]) for place in range(3))  # type: ignore[assignment]
        numbers = np.concatenate([np.full(len(part[0]), number) for number, part in enumerate(parts, 1)])
        _keep(context, name, found[name], numbers)
    ids, labels, outputs = found["student"]
    if len(set(ids.tolist())) < len(ids):
        raise RunError(
            "a sample was held out in two folds", where=str(context.rundir.path), fix="start the job again: its data have changed"
        )
    models = {name: model_summary(task, found[name][2], labels, None, None, seed) for name in summaries[0]["models"] if name in found}
    shown = {name: {key: block[key] for key in ("metrics", "intervals", "samples")} for name, block in models.items()}
    control = found["control"][2] if "control" in found else None
    teachers = {name: found[name][2] for name in summaries[0].get("teachers") or {} if name in found}
    return {"models": shown, "transfer": transfer_summary(task, labels, outputs, control, teachers or None, seed)}


def _keep(context: Context, name: str, answers: tuple[np.ndarray, np.ndarray, np.ndarray], numbers: np.ndarray) -> None:
    place = context.rundir.path / OUT_OF_FOLD / f"{name}.npz"
    with replacing(place) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, ids=answers[0], labels=answers[1], outputs=answers[2], fold=numbers)
