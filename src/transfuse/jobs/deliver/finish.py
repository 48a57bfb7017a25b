"""The end of a job: predictions, metrics, costs, summary.json, report and card."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfuse.core import ranks
from transfuse.core.types import DataSet, Model, Samples
from transfuse.engine import parallel
from transfuse.evaluate import budget as budgets
from transfuse.evaluate import cost, metrics
from transfuse.evaluate.predict import original_units, predict
from transfuse.evaluate.summary import model_summary, transfer_summary
from transfuse.jobs.context import Context, read_figures
from transfuse.jobs.deliver.kept import keep_training_inputs
from transfuse.jobs.parts.answers import Oracle
from transfuse.jobs.rundir import replacing, write_json
from transfuse.jobs.tracking import tell_summary
from transfuse.recipe.control import StudentRecipe
from transfuse.recipe.eval import EvalRecipe
from transfuse.recipe.fuse import FuseRecipe
from transfuse.report import card, page

Ask = Callable[[Samples], Tensor]
GALLERY = 256  # raw test inputs kept for galleries
TOLD = (
    "stages",  # beside or before the last one: by objective, its kind, steps and seconds
    "finetune",  # the policy, its phases and groups, the learning rate, what was averaged
    "extract",  # the features, the head, and how its settings were chosen
    "together",  # the source's weight, and how it was chosen
    "tasks",  # by source: whose head serves it, and what is reached on its test part
)
"""figures that jobs keep in their ledger for summary.json"""


def evaluate(
    context: Context,
    recipe: StudentRecipe,
    data: DataSet,
    trained: Mapping[str, Model],
    oracles: Mapping[str, Oracle],
    began: float,
    source_test: Mapping[str, Any] | None = None,
) -> None:
    """Writes predictions and summary.json. The test split is looked at here and nowhere else; a source's, by `on_source` alone.

    Args:
        context: the job.
        recipe: resolved.
        data: with all parts.
        trained: what was trained, as the summary calls it: see `trained_models`.
        oracles: teachers by name.
        began: when this process began with the job.
        source_test: what each model reaches on the source's test part, of a job with two domains: see `on_source`.
    """
    if ranks.rank() != 0:
        return
    threads = recipe.budget.threads
    outputs, models = {}, {}
    for name, model in trained.items():
        outputs[name] = keep_predictions(context, data, name, asking(model))
        models[name] = summary_of(data, outputs[name], measured(model, data, threads), recipe.seed)
    said, teachers, forwards = ask_teachers(context, recipe, data, oracles)
    ledger = context.ledger
    summary = {
        **heading(recipe, data),
        "models": models,
        "teachers": teachers,
        "sources": {},
        "transfer": transfer_summary(
            data.task, data.test.labels.numpy(), outputs["student"], outputs.get("control"), said or None, recipe.seed
        ),
        "teacher_forwards": forwards,
        "seconds": {
            "train": round(ledger.get("seconds.student", 0.0), 3),
            "total": round(ledger.get("seconds.before", 0.0) + time.monotonic() - began, 3),
        },
        "budget": budget(recipe, models["student"]),
    }
    summary |= {key: ledger[key] for key in TOLD if key in ledger}
    if source_test is not None:
        summary["source_test"] = dict(source_test)
    if recipe.samples:
        keep_samples(context, data, outputs, said)
        if data.source == "live":
            keep_training_inputs(context.rundir, data)
    write_json(context.rundir.path / "reasons.json", {"auto": known_reasons(context), "notes": context.notes})
    write_json(context.rundir.summary, summary)


def heading(recipe: StudentRecipe | FuseRecipe, data: DataSet) -> dict[str, Any]:
    """What every summary.json begins with: the job, the task, the seed and the figure that counts."""
    name, higher = metrics.primary(data.task)
    return {"job": recipe.job, "task": data.task, "seed": recipe.seed, "primary": {"name": name, "higher_is_better": higher}}


def ask_teachers(
    context: Context, recipe: StudentRecipe, data: DataSet, oracles: Mapping[str, Oracle]
) -> tuple[dict[str, np.ndarray], dict[str, Any], int]:
    """What the teachers say about the test part, their blocks of the summary, and how many samples they were sent in the whole job."""
    before = sum(oracle.asked() for oracle in oracles.values())
    said, teachers = {}, {}
    for name, oracle in oracles.items():
        said[name] = keep_predictions(context, data, name, oracle.outputs)
        teachers[name] = summary_of(data, said[name], oracle.cost(recipe.budget.threads), recipe.seed)
    forwards = context.ledger.get("teacher_forwards", 0) + sum(oracle.asked() for oracle in oracles.values()) - before
    networks = [name for name, oracle in oracles.items() if oracle.model.module is not None]
    if networks:
        asked = f"asked about {forwards:,} samples" if forwards else "not asked anything: all answers came from the cache"
        context.say(f"{' and '.join(networks)}: {asked}")
    return said, teachers, forwards


def trained_models(student: Model, control: Model | None, peers: Mapping[str, Model] | None = None) -> dict[str, Model]:
    """What a job trained, by its name in summary.json: student, control (if there is one), "peer NAME"."""
    found = {"student": student} if control is None else {"student": student, "control": control}
    return found | {f"peer {name}": model for name, model in (peers or {}).items()}


def report(context: Context) -> None:
    """Writes report.html and README.md from what the folder holds."""
    page.write(context.rundir.path)
    card.write(context.rundir.path)
    summary = context.rundir.read_summary()
    tell_summary(context.trackers, summary)
    context.trackers.close()
    context.reporter.result(summary, context.rundir.path)


def asking(model: Model) -> Ask:
    """A function from samples to the model's outputs, computed on this process's device; the model is back where it was afterwards."""
    assert model.preprocess is not None
    preprocess = model.preprocess

    def ask(samples: Samples) -> Tensor:
        network, device = model.network, parallel.own_device()
        home = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        try:
            return predict(network.to(device), samples, preprocess, device=device)
        finally:
            network.to(home)

    return ask


def keep_predictions(context: Context, data: DataSet, name: str, ask: Ask) -> np.ndarray:
    """predictions/NAME.npz for the test and validation parts; returns the test part's outputs, regression in original units."""
    content: dict[str, np.ndarray] = {}
    for prefix, samples in (("", data.test), ("val_", data.val)):
        outputs = ask(samples)
        if data.target is not None:
            outputs = original_units(outputs, data.target)
        content |= {f"{prefix}ids": samples.ids, f"{prefix}labels": samples.labels.numpy(), f"{prefix}outputs": outputs.numpy()}
    with replacing(context.rundir.predictions / f"{name}.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **content)
    return content["outputs"]


def summary_of(data: DataSet, outputs: np.ndarray, costs: Mapping[str, Any] | None, seed: int) -> dict[str, Any]:
    """One model's block of the summary."""
    return model_summary(data.task, outputs, data.test.labels.numpy(), costs, data.target, seed)


def on_source(data: DataSet, source_test: Samples, model: Model, seed: int) -> dict[str, Any]:
    """What a model reaches on the test part of the domain that it comes from: metrics, intervals and the number of samples."""
    outputs = asking(model)(source_test)
    if data.target is not None:
        outputs = original_units(outputs, data.target)
    found = model_summary(data.task, outputs.numpy(), source_test.labels.numpy(), None, data.target, seed)
    return {key: found[key] for key in ("metrics", "intervals", "samples")}


def measured(model: Model, data: DataSet, threads: int) -> dict[str, Any]:
    """Cost of a student: on the CPU, which is where a small device would run it."""
    assert model.preprocess is not None
    return cost.measure(model.network.to("cpu"), data.train.exact([0], model.preprocess), threads=threads)


def budget(recipe: StudentRecipe | FuseRecipe | EvalRecipe, student: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, what it is, and whether it is met; empty where nothing was asked."""
    return budgets.verdicts(recipe.budget.model_dump(), student)


def keep_samples(
    context: Context, data: DataSet, outputs: Mapping[str, np.ndarray], said: Mapping[str, np.ndarray], samples: Samples | None = None
) -> None:
    """A few raw inputs of the test part, or of `samples`: first those on which student and teacher disagree, then others, in order."""
    samples = data.test if samples is None else samples
    chosen = np.arange(len(samples))
    if data.target is None and said and outputs["student"].shape[1] > 1:
        disagree = outputs["student"].argmax(1) != next(iter(said.values())).argmax(1)
        chosen = np.concatenate([np.flatnonzero(disagree), np.flatnonzero(~disagree)])
    chosen = chosen[:GALLERY]
    inputs = samples.raw(torch.from_numpy(chosen)).numpy()
    with replacing(context.rundir.samples / "samples.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, ids=samples.ids[chosen], inputs=inputs)


def known_reasons(context: Context) -> dict[str, str]:
    return read_figures(context.rundir.path / "reasons.json").get("auto", {})
