"""transfuse demo: the shipped recipe on scikit-learn's digits; no network, no files of the user's."""

from __future__ import annotations

from importlib import resources

from transfuse.core.protocols import Reporter
from transfuse.jobs import distill
from transfuse.jobs.context import Run
from transfuse.jobs.rundir import default_out
from transfuse.recipe.load import load
from transfuse.recipe.schema import DistillRecipe


def run(out: str | None = None, seed: int = 0, reporter: Reporter | None = None) -> Run:
    """Runs recipe/library/demo.yaml.

    Args:
        out: the run folder; None: runs/demo-DATE-TIME.
        seed: of the run.
        reporter: who is told.
    """
    with resources.as_file(resources.files("transfuse.recipe") / "library" / "demo.yaml") as path:
        recipe = load(path, [f"seed={seed}", f"out={out or default_out('demo')}"])
        text = path.read_text(encoding="utf-8")
    assert isinstance(recipe, DistillRecipe)
    return distill.run(recipe, reporter, text)
