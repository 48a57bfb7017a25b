"""The verbs for Python: the recipe's keys as arguments, with live objects wherever the recipe has a string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from transfuse.core.protocols import Reporter
from transfuse.jobs import resume as resuming
from transfuse.jobs.context import Live, Run
from transfuse.jobs.python.arguments import data_of, model_of, run_taught, validated_recipe
from transfuse.jobs.runner import runner_of
from transfuse.recipe.load import from_values


def distill(
    data: Any,
    student: str | nn.Module | Mapping[str, Any],
    teacher: str | nn.Module | Mapping[str, Any] | None = None,
    objectives: Sequence[Any] | str = "auto",
    train: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **recipe: Any,
) -> Run:
    """A teacher teaches a student.

    Args:
        data: a source string, or (train, test) / (train, val, test), each a Dataset, a DataLoader or (inputs, labels); with more settings
            {"source": either of them, "labels_per_class": 10, ...}.
        student: a source string, a module, or a recipe block whose source may be a module: {"source": module, "preprocess": {...}}.
            A copy of the module is used, yours stays as it is.
        teacher: the same; several go into `teachers={name: ...}`.
        objectives: recipe entries such as {"kd": {"temperature": 2}}, or modules, or (module, weight); of modules, copies are used.
        train: {"epochs": 30, ...}.
        out: the run folder.
        reporter: who is told what goes on; None: nobody.
        recipe: any other key of the recipe: seed, teachers, peers, augment, control, cache, budget.

    Returns:
        The run: `.student` is the trained module, `.summary` the figures, `.report` the page, `.path` the folder.

    Raises:
        TransfuseError: what was given has to change; says what, where and how.
    """
    return run_taught({"job": "distill", **recipe}, (data, student, teacher), (objectives, train, out), reporter)


def born_again(
    data: Any,
    student: str | nn.Module | Mapping[str, Any],
    teacher: str | nn.Module | Mapping[str, Any] | None = None,
    objectives: Sequence[Any] | str = "auto",
    train: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **recipe: Any,
) -> Run:
    """A network teaches another one of its kind, which teaches the next: born-again networks.

    Args:
        data, student, objectives, train, out, reporter: as in `distill`.
        teacher: of the first generation; None: generation 0 learns from the labels alone.
        recipe: any other key of the recipe: generations, ensemble, seed, augment, control, cache, budget.

    Returns:
        The parent run; `.student` is the last generation, `.summary["runs"]` has all of them.

    Raises:
        TransfuseError: what was given has to change.
    """
    return run_taught({"job": "born_again", **recipe}, (data, student, teacher), (objectives, train, out), reporter)


def assistants(
    data: Any,
    student: str | nn.Module | Mapping[str, Any],
    teacher: str | nn.Module | Mapping[str, Any],
    objectives: Sequence[Any] | str = "auto",
    train: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **recipe: Any,
) -> Run:
    """A teacher teaches a student by way of assistants of sizes between them.

    Args:
        data, student, teacher, objectives, train, out, reporter: as in `distill`.
        recipe: `assistants=[...]`, source strings or recipe blocks from the teacher's size to the student's; dense, plain, and any other
            key of the recipe.

    Returns:
        The parent run; `.student` is the chain's last network, `.summary["runs"]` has all of them.

    Raises:
        TransfuseError: what was given has to change.
    """
    return run_taught({"job": "assistants", **recipe}, (data, student, teacher), (objectives, train, out), reporter)


def sweep(
    data: Any,
    student: str | nn.Module | Mapping[str, Any],
    teacher: str | nn.Module | Mapping[str, Any] | None = None,
    objectives: Sequence[Any] | str = "auto",
    train: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **recipe: Any,
) -> Run:
    """Many students: a distillation with every combination of some values, or a search among them, chosen on the validation part.

    Args:
        data, student, teacher, objectives, train, out, reporter: as in `distill`.
        recipe: `space={"objectives.kd.temperature": [1, 2, 4]}`; sampler, trials, prune, and any other key of the recipe.

    Returns:
        The parent run; `.student` is the chosen one, `.summary["runs"]` has all trials.

    Raises:
        TransfuseError: what was given has to change.
        MissingExtra: Optuna is not installed.
    """
    return run_taught({"job": "sweep", **recipe}, (data, student, teacher), (objectives, train, out), reporter)


def adapt(
    source: Any,
    target: Any,
    student: str | nn.Module | Mapping[str, Any],
    objectives: Sequence[Any] | str = "auto",
    train: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **recipe: Any,
) -> Run:
    """A network learns from a labelled source and from a target domain of the same classes, whose labels it doesn't see.

    Args:
        source: the data with labels, as in `distill`.
        target: data from where the network will be used, in the same forms; its labels are for the report alone.
        student: a source string, a module or a recipe block, as in `distill`.
        objectives: recipe entries such as "coral" or {"dann": {"weight": 0.5}}, or modules, or (module, weight).
        train: {"epochs": 30, ...}.
        out: the run folder.
        reporter: who is told what goes on; None: nobody.
        recipe: any other key of the recipe: seed, target_labels, target_share, select_on, augment, control, cache, budget.

    Returns:
        The run, as that of `distill`; its control was trained on the source alone.

    Raises:
        TransfuseError: what was given has to change; says what, where and how.
    """
    live = Live()
    values: dict[str, Any] = {"job": "adapt", **recipe, "student": model_of(student, live, None)}
    given = {}
    for key, data in (("source", source), ("target", target)):
        values[key], given[key] = data_of(data)
    live.data = {key: data for key, data in given.items() if data is not None}
    validated = validated_recipe(values, objectives, train, out, live)
    return runner_of(validated).run(validated, reporter, None, live)


def fuse(
    data: Any,
    sources: Mapping[str, str | nn.Module | Mapping[str, Any]],
    how: Any = "auto",
    student: str | nn.Module | Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **recipe: Any,
) -> Run:
    """Several trained models become one.

    Args:
        data: as in `distill`; weights are fitted and ways are chosen on its validation part.
        sources: name -> a source string, a module, or a recipe block, as in `distill`.
        how: a way such as "weighted" or {"outputs.gate": {"penalty": 0.01}}, a list of ways, or "auto".
        student: a smaller network that learns from what was fused.
        train: of the student: {"epochs": 30, ...}.
        out: the run folder.
        reporter: who is told what goes on; None: nobody.
        recipe: any other key of the recipe: seed, objectives, missing, select_by, augment, control, cache, budget.

    Returns:
        The run; `.student` is what is shipped, one module whatever it is made of, `.summary["fusion"]` what was tried.

    Raises:
        TransfuseError: what was given has to change; says what, where and how.
    """
    live = Live()
    values: dict[str, Any] = {"job": "fuse", **recipe, "how": how}
    values["data"], live.data = data_of(data)
    values["sources"] = {name: model_of(source, live, name) for name, source in sources.items()}
    if student is not None:
        values["student"] = model_of(student, live, None)
    validated = validated_recipe(values, recipe.get("objectives", "auto"), train, out, live)
    return runner_of(validated).run(validated, reporter, None, live)


def extract(
    data: Any,
    model: str | nn.Module | Mapping[str, Any],
    head: str | Mapping[str, Any] = "logistic",
    taps: str | Sequence[str] | None = None,
    train: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **recipe: Any,
) -> Run:
    """A head is fitted to the features of a frozen, pretrained network, which are computed once.

    Args:
        data: as in `distill`.
        model: the network: a source string, a module, or a recipe block, as in `distill`.
        head: logistic, linear_svm, rbf_svm, knn, ridge, random_forest, linear or mlp; with settings {"logistic": {"penalty": [10, 1]}}.
        taps: module path(s) of the features; None: what the last layer is given.
        train: how a control is trained from scratch.
        out: the run folder.
        reporter: who is told what goes on; None: nobody.
        recipe: any other key of the recipe: seed, standardise, components, choose, augment, map, control, cache, budget, validate.

    Returns:
        The run; `.student` is network and head as one module, `.summary["extract"]` says how the head was chosen.

    Raises:
        TransfuseError: what was given has to change; says what, where and how.
    """
    live = Live()
    values: dict[str, Any] = {"job": "extract", **recipe, "model": model_of(model, live, None), "head": head, "taps": taps}
    values["data"], live.data = data_of(data)
    values |= {key: value for key, value in (("train", train), ("out", None if out is None else str(out))) if value is not None}
    validated = from_values(values)
    return runner_of(validated).run(validated, reporter, None, live)


def finetune(
    data: Any,
    model: str | nn.Module | Mapping[str, Any],
    policy: str | Mapping[str, Any] = "full",
    objectives: Sequence[Any] | str = "auto",
    train: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **recipe: Any,
) -> Run:
    """A pretrained network learns a new task, beside the same network from scratch.

    Args:
        data: as in `distill`.
        model: the pretrained network: a source string, a module, or a recipe block, as in `distill`.
        policy: what is trained, when and how fast: "lp_ft", or with settings {"gradual": {"until": 0.5}}.
        objectives: as in `distill`; "start" is the teacher that answers as the network did before.
        train: {"epochs": 30, ...}.
        out: the run folder.
        reporter: who is told what goes on; None: nobody.
        recipe: any other key of the recipe: seed, depth, batchnorm, average, lr, augment, control, cache, budget.

    Returns:
        The run, as that of `distill`; its control was trained from scratch, and `.summary["finetune"]` says how the student was.

    Raises:
        TransfuseError: what was given has to change; says what, where and how.
    """
    live = Live()
    values: dict[str, Any] = {"job": "finetune", **recipe, "model": model_of(model, live, None), "policy": policy}
    values["data"], live.data = data_of(data)
    validated = validated_recipe(values, objectives, train, out, live)
    return runner_of(validated).run(validated, reporter, None, live)


def together(
    source: Any = None,
    target: Any = None,
    student: str | nn.Module | Mapping[str, Any] | None = None,
    source_weight: Any = 1.0,
    train: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **recipe: Any,
) -> Run:
    """A network learns from the labels of one or several sources and of a target at once: L = L_target + lambda L_source.

    Args:
        source, target: both with labels, as in `distill`; several sources go into `sources={name: ...}`.
        student: a source string, a module or a recipe block, as in `distill`.
        source_weight: lambda, for all sources or by name; a list is chosen from on the target's validation part; {"linear": {...}} changes
            over the run; "uncertainty": the weights of all terms are learnt.
        train: {"epochs": 30, ...}.
        out: the run folder.
        reporter: who is told what goes on; None: nobody.
        recipe: any other key of the recipe: seed, sources, heads, target_share, augment, control, cache, budget, validate.

    Returns:
        The run, as that of `distill`; its control was trained on the target alone, and `.summary["tasks"]` has what is reached on the
        sources' test parts. `transfuse.load("run:PATH#head:NAME")` opens the network of a task with a head of its own.

    Raises:
        TransfuseError: what was given has to change; says what, where and how.
    """
    live = Live()
    values: dict[str, Any] = {"job": "together", **recipe, "student": model_of(student, live, None), "source_weight": source_weight}
    named = dict(recipe.get("sources") or {})
    short = {name: data for name, data in (("source", source), ("target", target)) if data is not None}
    opened = {name: data_of(data) for name, data in {**named, **short}.items()}
    live.data = {name: data for name, (_, data) in opened.items() if data is not None}
    values |= {name: opened[name][0] for name in short}
    if named:
        values["sources"] = {name: opened[name][0] for name in named}
    values |= {key: value for key, value in (("train", train), ("out", None if out is None else str(out))) if value is not None}
    validated = from_values(values)
    return runner_of(validated).run(validated, reporter, None, live)


def resume(
    path: str | Path,
    data: Any = None,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
    objectives: Mapping[str, nn.Module] | None = None,
    reporter: Reporter | None = None,
    peers: Mapping[str, nn.Module] | None = None,
) -> Run:
    """Goes on with an interrupted run.

    Args:
        path: its folder.
        data, student, teacher, teachers: the live objects that it was started with; an extraction's model as student, data of
            several sets by name as {"source": ..., "target": ...}, sources of a fusion and models of an evaluation as teachers.
        objectives: live objectives, by their names in recipe.resolved.yaml.
        reporter: who is told.
        peers: live peers, by name.
    """
    named = {**({"teacher": teacher} if teacher is not None else {}), **dict(teachers or {})}
    return resuming.resume(path, reporter, Live(data, student, named, dict(objectives or {}), dict(peers or {}), named))
