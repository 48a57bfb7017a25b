"""The parts of a report that only a training on several labelled sets has: the sets, how weights were chosen, what each task reaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from transfuse.report import words
from transfuse.report.collect import RunFiles
from transfuse.report.drawing import MARKERS, colour, figure, legend, svg


def figures(run: RunFiles) -> list[tuple[str, Markup | None]]:
    """(caption, figure) where validation has chosen among several weights."""
    about = run.summary.get("together") or {}
    if len(about.get("candidates") or []) < 2:
        return []
    name = words.title(about["metric"])
    return [(f"{name[0].upper()}{name[1:]} on the target's validation part against the source's weight", choice_plot(about))]


def choice_plot(about: Mapping[str, Any]) -> Markup:
    """The validation metric of each weight, evenly spaced, since weights may span decades and hold 0."""
    metric = about["metric"]
    factor = 100.0 if words.metric(metric, 0.5).endswith("%") else 1.0
    candidates = sorted(about["candidates"], key=lambda one: one["source_weight"])
    values = [factor * one["validation"][metric] for one in candidates]
    drawn, (axes,) = figure(height=2.6)
    axes.plot(range(len(values)), values, color=colour("student"), marker=MARKERS["student"], markersize=5)
    chosen = next(place for place, one in enumerate(candidates) if one["source_weight"] == about["source_weight"])
    axes.scatter([chosen], [values[chosen]], s=110, marker="*", color=colour("control"), label="chosen", zorder=4, linewidths=0)
    axes.set_xticks(range(len(values)), [f"{one['source_weight']:g}" for one in candidates])
    axes.set_xlabel("weight of the source's loss; 0: the target alone")
    axes.set_ylabel(f"validation {words.title(metric)}{' (%)' if factor == 100 else ''}")
    legend(axes)
    return svg(drawn, f"Validation {words.title(metric)} against the source's weight")


def sets(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> data block, as the recipe has them: data, or source and target, or several sources by their names and the target."""
    named = recipe.get("sources") if recipe.get("job") == "together" else None  # elsewhere sources are models
    keys = ("data", "source", "target")
    found = {**(named if isinstance(named, Mapping) else {}), **{key: recipe.get(key) for key in keys}}
    return {name: block for name, block in found.items() if block}


def tasks(summary: Mapping[str, Any], name: str) -> list[str]:
    """A sentence for each other task on what is reached on its test part; a lone source that shares the head has its sentence elsewhere."""
    found = []
    for task, block in (summary.get("tasks") or {}).items():
        reached = {model: figures["metrics"].get(name) for model, figures in (block.get("models") or {}).items()}
        if reached.get("student") is None:
            found.append(f"On the test part of '{task}' nothing was measured: {block.get('reason', 'the metric is undefined there')}.")
        elif block.get("head") == "own":
            text = f"On the test part of '{task}' the network with its own head reaches {words.metric(name, reached['student'])}"
            found.append(f"{text}; the backbone is the student's (#head:{task}).")
        elif "source_test" not in summary:
            beside = f", its control {words.metric(name, reached['control'])}" if reached.get("control") is not None else ""
            found.append(f"On the test part of '{task}' the student reaches {words.metric(name, reached['student'])}{beside}.")
    return found


def lines(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, answer) on the losses and their heads."""
    names = [name for name in sets(recipe) if name != "target"]
    one = len(names) < 2
    weight, heads = recipe.get("source_weight"), recipe.get("heads")
    if isinstance(weight, dict) and set(weight) == set(names):
        shown = ", ".join(f"{name} {_weight(value, one)}" for name, value in weight.items())
    else:
        shown = _weight(weight, one)
    told = {"shared": "one for both" if one else "one for all", "own": "one for each; the target's is shipped"}
    if isinstance(heads, dict):
        told_heads = "; ".join(f"{name}: {'its own' if kind == 'own' else 'that of the target'}" for name, kind in heads.items())
    else:
        told_heads = told.get(str(heads), str(heads))
    share = recipe.get("target_share")
    batch = "as the sets' sizes have it" if share == "size" else f"{share:g}" if share is not None else "?"
    return [
        ("Weight of the source" if one else "Weights of the sources", shown),
        ("Heads", told_heads),
        ("Target's share of a batch", batch),
    ]


def _weight(weight: Any, one: bool) -> str:
    """A fixed, chosen, scheduled or learnt weight in words."""
    if isinstance(weight, list):
        return f"one of {', '.join(f'{value:g}' for value in weight)}, chosen on the target's validation part"
    if isinstance(weight, dict):
        name, settings = next(iter(weight.items()))
        return f"{name} ({', '.join(f'{key} {value}' for key, value in (settings or {}).items())})"
    if weight == "uncertainty":
        return "learnt, as is the target's (uncertainty)" if one else "learnt, as is the target's: all terms (uncertainty)"
    return f"{weight:g}" if weight is not None else "?"
