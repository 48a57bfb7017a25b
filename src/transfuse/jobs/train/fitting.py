"""Fitting a head to features, and putting it where the network's last layer was."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfuse import probes
from transfuse.core.grafts import graft, put
from transfuse.core.heads import read_ending
from transfuse.core.tapped import Tapped, gathering
from transfuse.core.types import DataSet, Model, Progress
from transfuse.data.splits import folds, refuse_single, strata
from transfuse.errors import DataError, ModelError, RecipeError
from transfuse.evaluate import metrics
from transfuse.jobs.context import Context
from transfuse.jobs.parts.features import TrainingRows
from transfuse.jobs.rundir import write_json
from transfuse.probes.assembly import ending
from transfuse.probes.choice import Candidate, Fitted, Folds, Plan, choose
from transfuse.probes.problem import Problem, settings
from transfuse.recipe.extract import ExtractRecipe

CLOSE = 1e-3  # relative; between the shipped network and its head on stored features


def plan_of(recipe: ExtractRecipe, data: DataSet) -> Plan:
    """The recipe's head and how it is judged.

    Raises:
        RecipeError: the head can't be fitted to such labels, or no such metric.
    """
    name, chosen = next(iter(recipe.head.items()))
    card = probes.card(name)
    if data.task not in card.tasks:
        able = [other for other in probes.names() if data.task in probes.card(other).tasks]
        what = f"{name} is fitted to {' and '.join(card.tasks)}, and the task is {data.task}"
        raise RecipeError(what, where="head", fix=f"for that there are {', '.join(able)}")
    metric = recipe.choose.metric or metrics.primary(data.task)[0]
    higher = metrics.higher_is_better(data.task, metric)
    return Plan(probes.get(name)(**chosen), card, recipe.standardise, recipe.components, score_of(data, metric), higher)


def score_of(data: DataSet, metric: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """A function from outputs and labels, as heads have them, to a metric."""

    def score(outputs: np.ndarray, labels: np.ndarray) -> float:
        if data.target is not None:
            std, mean = np.array(data.target.std), np.array(data.target.mean)
            outputs, labels = outputs * std + mean, labels * std + mean
        return metrics.score(data.task, metric, outputs, labels)

    return score


def sample_folds(recipe: ExtractRecipe, data: DataSet, plan: Plan) -> np.ndarray | None:
    """int64 [n]: the fold of each training sample; None where there is nothing to choose and no margin to scale.

    Raises:
        DataError: a class with a single sample, or fewer samples than folds.
    """
    if len(settings(plan.head)) == 1 and not plan.card.margins:
        return None
    count, labels = recipe.choose.folds, data.train.labels
    if data.task == "classification":
        refuse_single(labels.numpy(), data.classes, "choose.folds")
    return folds(strata(labels, data.task, 1 / count), count, recipe.seed, "choose")


def refuse_components(recipe: ExtractRecipe, width: int, samples: int, views: int) -> None:
    """More principal components than features or than rows that a fold leaves to learn from.

    Raises:
        DataError: says how many there can be.
    """
    count = recipe.components
    rows = samples * (recipe.choose.folds - 1) // recipe.choose.folds * (1 + views)
    if count is not None and count >= 1 and count > min(width, rows):
        what = f"{count:g} components of {rows} rows with {width} features"
        raise DataError(what, where="components", fix=f"{min(width, rows)} is the most; or give a share of the variance, such as 0.95")


def fit(context: Context, recipe: ExtractRecipe, data: DataSet, rows: TrainingRows, path: Path, name: str) -> Fitted:
    """Chooses the head's settings on folds of the training samples and fits it; an interrupted choice goes on where it was.

    Args:
        context: the job.
        recipe: resolved.
        data: opened.
        rows: features and labels.
        path: where the scores of the choice are kept.
        name: what progress is shown under.
    """
    plan = plan_of(recipe, data)
    held = sample_folds(recipe, data, plan)
    problem = Problem(rows.features, rows.labels, data.task, data.outputs, recipe.seed)
    grid = settings(plan.head)

    def keep(candidates: list[Candidate]) -> None:
        scores = {str(candidate.setting): candidate.scores for candidate in candidates}
        write_json(path, {"rows": len(rows.features), "scores": scores})
        done = len(candidates[0].scores)
        best = max if plan.higher_is_better else min
        shown = {"best of folds": best(candidate.mean for candidate in candidates)}
        context.listen(Progress(name, done * len(grid), recipe.choose.folds * len(grid), float(done), shown))

    known = _known(path, len(rows.features))
    return choose(plan, problem, None if held is None else Folds(held[rows.sample], rows.plain), known, keep)


def _known(path: Path, rows: int) -> dict[str, list[float]]:
    """Scores that an interrupted run has kept; none where the file is absent or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): [float(one) for one in scores] for name, scores in content["scores"].items()} if content["rows"] == rows else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def assembled(backbone: Model, paths: tuple[str, ...], fitted: Fitted, data: DataSet, example: Tensor) -> Model:
    """Backbone and head as one network, in which the head stands where the last layer was.

    A linear head on what the last layer was given becomes that layer, so that the network is a plain one of its architecture. Any other
    one is put there as a graft, which the .json beside the weights tells of.

    Args:
        backbone: is not changed.
        paths: of the features.
        fitted: the head.
        data: whose labels it was fitted to.
        example: inputs of the network.

    Raises:
        ModelError: the network's outputs are not what the head makes of its features, because of what follows its last layer.
    """
    network = copy.deepcopy(backbone.network).cpu().eval()
    layers = ending(fitted.preparation, fitted.head)
    with torch.no_grad():
        expected = nn.Sequential(*layers).eval()(Tapped(network, paths)(example))
    _put(network, backbone, paths, layers, data.outputs, example)
    with torch.no_grad():
        outputs = network(example)
    if outputs.shape != expected.shape or float((outputs - expected).abs().max()) > CLOSE * float(expected.abs().max().clamp(min=1e-3)):
        what = f"what follows the last layer of {backbone.source} changes what the head says, so they can't be one network"
        raise ModelError(what, "model", fix="give a network whose last layer makes the logits")
    options = {**backbone.options, "outputs": data.outputs}
    classes = list(data.classes) or None
    return replace(backbone, module=network.requires_grad_(True), options=options, classes=classes, target=data.target, notes=[])


def _put(network: nn.Module, backbone: Model, paths: tuple[str, ...], layers: list[nn.Module], outputs: int, example: Tensor) -> None:
    path = read_ending(network, example).path
    layer: Any = network.get_submodule(path)
    plain = paths == (f"{path}@input",)
    if plain and len(layers) == 1 and isinstance(layers[0], nn.Linear):
        new = layers[0] if isinstance(layer, nn.Linear) else _as_convolution(layers[0], layer)
        if layer.bias is None or backbone.architecture is None:  # another form than the architecture's, which its file has to tell
            graft(network, path, "replace", [new])
        else:
            put(network, path, new)
        return
    vectors = isinstance(layer, nn.Linear) and plain
    front = [] if vectors else [gathering(network, paths, example)]
    behind = [] if isinstance(layer, nn.Linear) else [nn.Unflatten(1, (outputs, *[1] * len(layer.kernel_size)))]
    graft(network, path, "instead", [*front, *layers, *behind])


def _as_convolution(layer: nn.Linear, like: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> nn.Module:
    """The same map as a convolution with kernels of one position, of another one's kind."""
    kind = next(kind for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(like, kind))
    found = kind(layer.in_features, layer.out_features, 1)
    with torch.no_grad():
        found.weight.copy_(layer.weight.reshape(found.weight.shape))
        found.bias.copy_(layer.bias)  # type: ignore[union-attr]
    return found


def told(recipe: ExtractRecipe, fitted: Fitted, data: DataSet, rows: TrainingRows) -> dict[str, Any]:
    """What summary.json says of a head: its settings, how they were chosen, and what it was fitted to."""
    name = next(iter(recipe.head))
    metric = recipe.choose.metric or metrics.primary(data.task)[0]
    candidates = [
        {"setting": one.setting, "mean": one.mean, "std": float(np.std(one.scores, ddof=1)), "scores": one.scores}
        for one in fitted.candidates
        if one.scores
    ]
    return {
        "head": name,
        "ends": probes.card(name).ends,
        "setting": fitted.setting,
        "metric": metric,
        "higher_is_better": metrics.higher_is_better(data.task, metric),
        "folds": recipe.choose.folds if candidates else None,
        "candidates": candidates,
        "factor": fitted.factor,
        "width": rows.features.shape[1],
        "used": fitted.preparation.width,
        "explained": fitted.preparation.explained,
        "rows": len(rows.features),
    }
