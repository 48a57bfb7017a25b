"""transfuse eval: recipe -> data and models -> predictions -> metrics, tests, costs, fidelity, robustness -> report.

Predictions and the errors on each corruption are kept as soon as they are there, so resuming an evaluation is running it again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from transfuse.core.protocols import Reporter
from transfuse.core.types import Model, Progress
from transfuse.engine import parallel
from transfuse.evaluate import cost, layers, metrics, robustness
from transfuse.evaluate.calibration import reliability
from transfuse.evaluate.classwise import per_class, reliability_rows
from transfuse.evaluate.fidelity import fidelity
from transfuse.evaluate.outcomes import ClassOutcomes, MultilabelOutcomes, outcomes
from transfuse.evaluate.paired import paired_tests
from transfuse.evaluate.predict import original_units, predict
from transfuse.evaluate.summary import model_summary
from transfuse.jobs.context import Context, Live, Run
from transfuse.jobs.deliver.finish import budget, keep_samples
from transfuse.jobs.parts.answers import table_outputs
from transfuse.jobs.prepare import opening
from transfuse.jobs.prepare.eval_opening import Opened, prepare
from transfuse.jobs.rundir import replacing, write_json
from transfuse.recipe.eval import EvalRecipe
from transfuse.report import evaluation_page

_TELLS_FROM = 1000  # samples; fewer are asked about before a bar would be drawn


def run(recipe: EvalRecipe, reporter: Reporter | None = None, recipe_text: str | None = None, live: Live | None = None) -> Run:
    """Runs a new evaluation.

    Args:
        recipe: as the user wrote it.
        reporter: who is told what goes on; None: nobody.
        recipe_text: the user's YAML, kept word for word.
        live: objects in place of strings: data, models, teachers.

    Raises:
        TransfuseError: the user's input has to change.
        KeyboardInterrupt: interrupted; the folder can be resumed.
    """
    context = opening.new_context(recipe, reporter, live)
    context.rundir.refuse_occupied()
    opened = prepare(recipe, context)
    opening.lay_out(context, recipe, recipe_text, opened.recipe, opened.reasons)
    return _run(context, opened)


def resume(context: Context, recipe: EvalRecipe) -> Run:
    """Goes on with an evaluation from its resolved recipe."""
    return _run(context, prepare(recipe, context))


def check(recipe: EvalRecipe, reporter: Reporter, live: Live) -> tuple[EvalRecipe, dict[str, str]]:
    """The resolved recipe and its reasons; refuses what `run` refuses, and writes nothing."""
    opened = prepare(recipe, opening.new_context(recipe, reporter, live))
    return opened.recipe, opened.reasons


def _run(context: Context, opened: Opened) -> Run:
    began = time.monotonic()
    recipe, data, samples = opened.recipe, opened.data, opened.samples
    labels = samples.labels.numpy()
    everyone = {**opened.models, **opened.teachers}
    outputs = {name: _outputs(context, opened, name, model) for name, model in everyone.items()}
    blocks = {name: _block(opened, model, outputs[name]) for name, model in everyone.items()}
    found = {name: outcomes(data.task, outputs[name], labels, data.target) for name in opened.models}
    name, higher = metrics.primary(data.task)
    summary: dict[str, Any] = {
        "job": recipe.job,
        "task": data.task,
        "seed": recipe.seed,
        "primary": {"name": name, "higher_is_better": higher},
        "data": {"source": data.source, "part": recipe.part, "samples": len(samples)},
        "classes": list(data.classes) or None,
        "models": {name: blocks[name] for name in opened.models},
        "teachers": {name: blocks[name] for name in opened.teachers},
        "sources": {},
        "transfer": {},
        "tests": paired_tests(data.task, found, recipe.seed),
        "fidelity": _fidelities(opened, outputs, labels),
        "robustness": _robustness(context, opened),
        "teacher_forwards": len(samples) * sum(model.module is not None for model in opened.teachers.values()),
        "budget": budget(recipe, next(iter(blocks.values()))),
    }
    if recipe.samples:
        first = next(iter(opened.models))
        said = {name: outputs[name] for name in opened.teachers} or {name: outputs[name] for name in list(outputs)[1:2]}
        keep_samples(context, data, {"student": outputs[first]}, said, samples)
    summary["seconds"] = {"train": 0.0, "total": round(time.monotonic() - began, 3)}
    write_json(context.rundir.path / "reasons.json", {"auto": opened.reasons, "notes": context.notes})
    write_json(context.rundir.summary, summary)
    evaluation_page.write(context.rundir.path)
    context.reporter.result(summary, context.rundir.path)
    parallel.stop()
    return Run(context.rundir.path)


def _outputs(context: Context, opened: Opened, name: str, model: Model) -> np.ndarray:
    """What a model says about every sample, in original units; asked once, then read from predictions/NAME.npz."""
    path, samples, data = context.rundir.predictions / f"{name}.npz", opened.samples, opened.data
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            return stored["outputs"]
    if model.table is not None:
        answers = table_outputs(model, samples)
    else:
        assert model.preprocess is not None

        def tell(done: int, total: int) -> None:
            context.reporter.progress(Progress(name, done, total, math.nan))

        network, told = model.network.to(context.device), tell if len(samples) >= _TELLS_FROM else None
        answers = predict(network, samples, model.preprocess, context.device, opened.recipe.batch_size, told)
    if data.target is not None:
        answers = original_units(answers, data.target)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, ids=samples.ids, labels=samples.labels.numpy(), outputs=answers.numpy())
    return answers.numpy()


def _block(opened: Opened, model: Model, outputs: np.ndarray) -> dict[str, Any]:
    """One model's block of the summary: what every job's summary has, class by class and by confidence too."""
    data, labels, recipe = opened.data, opened.samples.labels.numpy(), opened.recipe
    costs = None
    if model.module is not None:
        assert model.preprocess is not None
        example = opened.samples.exact([0], model.preprocess)
        costs = cost.measure(model.network.to("cpu"), example, threads=recipe.budget.threads)
    block = model_summary(data.task, outputs, labels, costs, data.target, recipe.seed, recipe.top_k)
    found = outcomes(data.task, outputs, labels, data.target)
    if not found.defect and isinstance(found, ClassOutcomes | MultilabelOutcomes):
        block["per_class"] = per_class(found, data.classes)
    if not found.defect and isinstance(found, ClassOutcomes):
        block["reliability"] = reliability_rows(reliability(found.confidence, found.correct))
    return {"source": model.source, **block}


def _fidelities(opened: Opened, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, dict[str, Any]]:
    """Model -> teacher -> how the one follows the other."""
    found: dict[str, dict[str, Any]] = {}
    for name, model in opened.models.items():
        for whom, teacher in opened.teachers.items():
            figures = fidelity(opened.data.task, outputs[name], outputs[whom], labels, opened.data.classes)
            figures["cka"], reason = _likeness(opened, model, teacher)
            found.setdefault(name, {})[whom] = figures | ({"reasons": {"cka": reason}} if reason else {})
    return found


def _likeness(opened: Opened, model: Model, teacher: Model) -> tuple[list[dict[str, Any]] | None, str | None]:
    if model.module is None or teacher.module is None:
        return None, "a table of predictions has no features"
    assert model.preprocess is not None
    assert teacher.preprocess is not None
    pair = (model.network, model.preprocess), (teacher.network, teacher.preprocess)
    return layers.likeness(*pair, opened.samples, opened.recipe.batch_size)


def _robustness(context: Context, opened: Opened) -> dict[str, Any] | None:
    """Errors on corrupted pictures, one corruption after the other; those that the ledger has are not measured again."""
    asked = opened.recipe.corruptions()
    if not asked:
        return None
    samples, recipe = opened.samples, opened.recipe
    rows = robustness.positions(len(samples), recipe.robustness_samples)
    networks = {
        name: (model.network.to(context.device), model.preprocess or opened.data.preprocess) for name, model in _networks(opened).items()
    }
    found: dict[str, dict[str, list[float]]] = {}
    for name in [robustness.CLEAN, *asked]:
        key = f"robustness.{name}"
        if key not in context.ledger:

            def tell(done: int, total: int, name: str = name) -> None:
                context.reporter.progress(Progress(name.replace("_", " "), done, total, math.nan))

            context.keep(key, robustness.errors(networks, samples, rows, name, recipe.seed, recipe.robustness_severities, tell))
        found[name] = context.ledger[key]
    raw = samples.raw([0])
    return robustness.summed_up(found, len(rows), (raw.shape[2], raw.shape[3]), recipe.robustness_severities)


def _networks(opened: Opened) -> dict[str, Model]:
    return {name: model for name, model in {**opened.models, **opened.teachers}.items() if model.module is not None}
