"""The verbs for Python that look at what is trained: eval, compare, push.

They are `transfuse.eval` and so on; `transfuse.evaluate` and `transfuse.report` are rooms of the package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from transfuse.core.protocols import Reporter
from transfuse.jobs import compare as comparing
from transfuse.jobs import eval as evaluating
from transfuse.jobs import push as pushing
from transfuse.jobs.context import Live, Run
from transfuse.recipe.eval import EvalRecipe
from transfuse.recipe.load import from_values
from transfuse.recipe.model_arguments import name_of, source_of

Given = str | Path | Run | nn.Module | Mapping[str, Any]


def eval(
    models: Given | Sequence[Given] | Mapping[str, Given],
    data: Any = None,
    teacher: Given | None = None,
    part: str = "test",
    robustness: bool | Sequence[str] = False,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    more: Mapping[str, Any] | None = None,
) -> Run:
    """Measures trained models or runs on data: metrics with intervals, paired tests, costs, fidelity to a teacher, robustness.

    Args:
        models: a run, a run folder, a source string, a module or a recipe block; several as a list or by name.
        data: a source string, live data as in `distill`, or {"source": either of them, ...}; None: the data of the first model that is a
            run.
        teacher: the same kinds as a model: what the models are compared with.
        part: test, val, train or all.
        robustness: True for all corruptions of pictures, or names of corruptions and families (noise, blur, weather, digital).
        out: the folder.
        reporter: who is told what goes on; None: nobody.
        more: any other key of the recipe: seed, budget, batch_size, robustness_samples, samples.

    Returns:
        The evaluation: `.summary` has the figures, `.report` is the page.

    Raises:
        TransfuseError: what was given has to change; says what, where and how.
    """
    live = Live()
    blocks, held = _named(models)
    values: dict[str, Any] = {"job": "eval", **dict(more or {}), "models": blocks, "part": part}
    values["robustness"] = robustness if isinstance(robustness, bool) else list(robustness)
    live.models = held
    if teacher is not None:
        found, live.teachers = _named({"teacher": teacher})
        values["teachers"] = found
    if data is not None:
        block = dict(data) if isinstance(data, Mapping) and "source" in data else {"source": data}
        if not isinstance(block["source"], str):
            live.data, block["source"] = block["source"], "live"
        values["data"] = block
    if out is not None:
        values["out"] = str(out)
    recipe = from_values(values)
    assert isinstance(recipe, EvalRecipe)
    return evaluating.run(recipe, reporter, None, live)


def _named(given: Any) -> tuple[dict[str, Any], dict[str, nn.Module]]:
    """(recipe blocks by name, the live modules among them)."""
    if isinstance(given, Mapping) and "source" not in given:
        named = dict(given)
    else:
        listed = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        named = {}
        for one in listed:
            text = one.__class__.__name__ if isinstance(one, nn.Module) else str(_source(one))
            named[name_of(text, list(named))] = one
    blocks: dict[str, Any] = {}
    held: dict[str, nn.Module] = {}
    for name, one in named.items():
        source = _source(one)
        if isinstance(source, nn.Module):
            held[name], source = source, f"live:{type(source).__name__}"
        blocks[name] = {**(one if isinstance(one, Mapping) else {}), "source": source}
    return blocks, held


def _source(given: Any) -> Any:
    """A module as it is, anything else as a source string."""
    if isinstance(given, Mapping):
        given = given["source"]
    if isinstance(given, nn.Module):
        return given
    return source_of(str(given.path if isinstance(given, Run) else given))


def compare(runs: str | Path | Run | Sequence[str | Path | Run], out: str | Path | None = None, teachers: bool = False) -> Path:
    """Lays runs, evaluations and jobs of several runs side by side on one offline page.

    Args:
        runs: their folders; one alone need not be in a list.
        out: the page; None: runs/compare-DATE-TIME.html.
        teachers: rows for their teachers, too.

    Returns:
        The page.

    Raises:
        RunError: a folder holds no finished run, or a file in it was damaged; names the file.
    """
    given = [runs] if isinstance(runs, (str, Path, Run)) else runs
    return comparing.compare([_folder(run) for run in given], out, teachers)[1]


def push(run: str | Path | Run, repository: str, confirm: Callable[[pushing.Parcel], bool], private: bool = True) -> str | None:
    """Uploads a finished run's student with card, recipe and report to the Hugging Face Hub.

    Args:
        run: its folder.
        repository: owner/name.
        confirm: is given what would be uploaded (`.files`, `.shows_data`), and says whether to: `lambda parcel: True`.
        private: a repository that is made for it is private.

    Returns:
        Where it is; None where `confirm` said no.

    Raises:
        RunError: not a finished run, or the hub refused.
        MissingExtra: huggingface_hub is not installed.
    """
    return pushing.push(_folder(run), repository, confirm, private)


def _folder(run: str | Path | Run) -> Path:
    return run.path if isinstance(run, Run) else Path(run)
