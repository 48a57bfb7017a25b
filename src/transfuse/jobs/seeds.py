"""Any job with `seeds: 5`: the whole job once for each seed, and what the seeds say together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transfuse.core.protocols import Reporter
from transfuse.jobs import check as checking
from transfuse.jobs import series, sweep
from transfuse.jobs.context import Context, Live, Run
from transfuse.recipe.schema import Recipe


def run(recipe: Recipe, reporter: Reporter | None = None, recipe_text: str | None = None, live: Live | None = None) -> Run:
    """Runs a job several times.

    Args:
        recipe: of any job, with `seeds`.
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
    """Checks the job with its first seed.

    Raises:
        TransfuseError: it would be refused.
    """
    first = members(recipe)[0].recipe
    resolved, reasons = checking.run(first, reporter, live)
    return series.decided(recipe, resolved, reasons, ())


def resume(context: Context, recipe: Recipe) -> Run:
    """Goes on with the runs that are not finished."""
    series.go_on(context)
    return _runs(context, recipe)


def members(recipe: Recipe) -> Sequence[series.Member]:
    """One run for each seed; nothing else differs. Each exports its own student, since none is the one."""
    return [
        series.Member(f"seed_{seed}", recipe.model_copy(update={"seeds": None, "seed": seed}), {"seed": seed})
        for seed in recipe.seed_list()
    ]


def _runs(context: Context, recipe: Recipe) -> Run:
    planned = members(sweep.repeated(context, recipe))
    summaries = series.run_all(context, planned)
    entries = [series.entry(member, summary) for member, summary in zip(planned, summaries, strict=True)]
    summary: dict[str, Any] = {**series.summed_up(recipe, entries, summaries), "series": "seeds", **series.aggregated(summaries)}
    return series.finish(context, summary)
