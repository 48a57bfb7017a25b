"""What jobs share in which a student of one run teaches in the next: teachers that are runs, and figures over several runs' answers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from transfuse.errors import RunError
from transfuse.evaluate.summary import mean_prediction, model_summary, transfer_summary
from transfuse.jobs.context import Live
from transfuse.jobs.rundir import RunDir
from transfuse.models.weights import load_into, read_state
from transfuse.recipe.blocks import TeacherBlock
from transfuse.recipe.schema import DistillRecipe, TaughtRecipe

_COSTS = ("parameters", "macs", "bytes")


def distillation(recipe: TaughtRecipe, changes: Mapping[str, Any]) -> DistillRecipe:
    """One link of a chain: the keys that the recipe shares with a distillation, and others in their place.

    A link exports nothing unless the changes say so: what is shipped is the series' student.
    """
    shared = [key for key in DistillRecipe.model_fields if key in type(recipe).model_fields and key not in ("job", "export")]
    values = {key: getattr(recipe, key) for key in shared}
    return DistillRecipe.model_validate({"job": "distill", **values, "seeds": None, **changes})


def graduate(
    run: RunDir, part: str, live: nn.Module | None, preprocess: dict[str, Any] | None = None
) -> tuple[TeacherBlock, nn.Module | None]:
    """A network that an earlier run has trained, as a teacher: its block, and the module where it was given as one.

    Args:
        run: the run that trained it.
        part: student or teacher.
        live: the module that the network was given as; None where the run's folder says how to open it.
        preprocess: of a live module; else the run's folder knows.
    """
    if live is None:
        return TeacherBlock(source=f"run:{run.path}{'' if part == 'student' else f'#{part}'}"), None
    return trained(run.path / f"{part}.safetensors", live, preprocess)


def trained(path: Path, live: nn.Module | None, preprocess: dict[str, Any] | None = None) -> tuple[TeacherBlock, nn.Module | None]:
    """The same, from a file of weights."""
    if live is None:
        return TeacherBlock(source=f"file:{path}"), None
    module = copy.deepcopy(live)
    load_into(module, read_state(path, trusted=False), str(path))
    return TeacherBlock(source=f"live:{type(live).__name__}", preprocess=preprocess), module


def beside(live: Live, teachers: Mapping[str, nn.Module | None], student: nn.Module | None) -> Live:
    """Live objects of one link: data and objectives as they are, the student, and the teachers that are modules."""
    named = {name: module for name, module in teachers.items() if module is not None}
    return replace(live, student=student, teachers=named)


def answers(run: RunDir, model: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids, labels, outputs) of a model of a run on the test split.

    Raises:
        RunError: the file is absent or damaged.
    """
    path = run.predictions / f"{model}.npz"
    try:
        with np.load(path, allow_pickle=False) as content:
            return content["ids"], content["labels"], content["outputs"]
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"can't be read: {error}", where=str(path), fix="delete that run's folder and resume") from error


def same_samples(found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], where: Path) -> None:
    """
    Raises:
        RunError: the runs looked at other samples, so their answers can't be compared.
    """
    if any(not np.array_equal(found[0][0], ids) for ids, _, _ in found[1:]):
        raise RunError("the runs have other test samples, so their answers can't be compared", where=str(where), fix="start the job again")


def ensemble(runs: Sequence[RunDir], model: str, summaries: Sequence[Mapping[str, Any]], where: Path) -> tuple[dict[str, Any], np.ndarray]:
    """The mean prediction of one model of several runs: its block of the summary, and its outputs.

    Args:
        runs: finished.
        model: student or control.
        summaries: of the runs.
        where: the parent folder, for messages.
    """
    found = [answers(run, model) for run in runs]
    same_samples(found, where)
    task, seed = summaries[0]["task"], summaries[0]["seed"]
    outputs = mean_prediction(task, {str(number): answer for number, (_, _, answer) in enumerate(found)})
    block = model_summary(task, outputs, found[0][1], None, None, seed)
    costs = {key: [summary["models"][model][key] for summary in summaries] for key in _COSTS}
    block |= {key: None if None in values else sum(values) for key, values in costs.items()}
    reasons = {key: reason for key, reason in block.get("reasons", {}).items() if key not in _COSTS}
    return {**block, "reasons": {**reasons, "latency_ms": "several networks: not measured together"}}, outputs


def gain(summary: Mapping[str, Any], labels: np.ndarray, better: np.ndarray, worse: np.ndarray) -> tuple[float | None, list[float] | None]:
    """(how much the first outputs are better, its 95 % interval), paired over test samples."""
    found = transfer_summary(summary["task"], labels, better, worse, None, summary["seed"])
    return found["gain"], found["gain_interval"]
