"""The parts of a report that only a training on two labelled sets has: how the source's weight was chosen."""

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


def lines(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, answer) on the two losses and their heads."""
    weight = recipe.get("source_weight")
    if isinstance(weight, list):
        shown = f"one of {', '.join(f'{value:g}' for value in weight)}, chosen on the target's validation part"
    elif isinstance(weight, dict):
        name, settings = next(iter(weight.items()))
        shown = f"{name} ({', '.join(f'{key} {value}' for key, value in (settings or {}).items())})"
    else:
        shown = "learnt, as is the target's (uncertainty)" if weight == "uncertainty" else f"{weight:g}" if weight is not None else "?"
    heads = {"shared": "one for both", "own": "one for each; the target's is shipped"}
    share = recipe.get("target_share")
    batch = "as the sets' sizes have it" if share == "size" else f"{share:g}" if share is not None else "?"
    return [
        ("Weight of the source", shown),
        ("Heads", heads.get(str(recipe.get("heads")), str(recipe.get("heads")))),
        ("Target's share of a batch", batch),
    ]
