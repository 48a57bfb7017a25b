"""The parts of a report that only an extraction has: what the folds said of the head's settings, and how the features lie."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from transfuse.report import words
from transfuse.report.collect import RunFiles
from transfuse.report.drawing import EXTRAS, MARKERS, clipped, colour, figure, legend, svg

_COLOURS = [*EXTRAS, "student", "control", "teacher", "peer"]
_SHAPES = ["o", "s", "^"]
_MOST_CLASSES = len(_COLOURS) * len(_SHAPES)  # that can be told apart; more are drawn alike


def figures(run: RunFiles) -> list[tuple[str, Markup | None]]:
    """(caption, figure) of those that the folder has the numbers for."""
    about = run.summary.get("extract") or {}
    found: list[tuple[str, Markup | None]] = []
    if len(about.get("candidates") or []) > 1:
        caption = f"{about['head']}: {words.title(about['metric'])} on held-out folds of the training part, with standard deviations"
        found.append((caption, choice_plot(about)))
    content = _map(run)
    if content is not None:
        how = {"pca": "first two principal components", "tsne": "t-SNE; distances between groups mean nothing"}
        points, labels, name = content
        found.append((f"Features of {len(points):,} training samples: {how.get(name, name)}", map_plot(points, labels, run)))
    return found


def lines(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, answer) on the features, the head and the control."""
    head, settings = next(iter((recipe.get("head") or {}).items()), ("", {}))
    taps = recipe.get("taps")
    where = "what the last layer is given" if taps is None else taps if isinstance(taps, str) else " and ".join(taps)
    if recipe.get("components"):
        where += f"; principal components: {recipe['components']:g}"
    shown = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in (settings or {}).items())
    controls = {
        "untrained": "the same head on the same network with random weights",
        "train": "the same network, trained from scratch on labels only",
        "reuse": "the same network, trained from scratch on labels only (a stored one is reused)",
    }
    control = str(recipe.get("control"))
    return [("Features", where), ("Head", f"{head} ({shown})" if shown else str(head)), ("Control", controls.get(control, control))]


def _short(value: Any) -> str:
    return f"one of {', '.join(f'{entry:g}' for entry in value)}" if isinstance(value, list) and len(value) > 1 else str(value)


def choice_plot(about: Mapping[str, Any]) -> Markup:
    """The held-out score against the first setting that varies; a line for each value of the others."""
    candidates = about["candidates"]
    factor = 100.0 if words.metric(about["metric"], 0.5).endswith("%") else 1.0
    names = list(candidates[0]["setting"])
    varying = [name for name in names if len({one["setting"][name] for one in candidates}) > 1] or names[:1]
    across, others = varying[0], varying[1:]
    drawn, (axes,) = figure()
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in candidates:
        groups.setdefault(tuple(one["setting"][name] for name in others), []).append(one)
    for number, (values, members) in enumerate(groups.items()):
        members = sorted(members, key=lambda one: one["setting"][across])
        label = ", ".join(f"{name} {value:g}" for name, value in zip(others, values, strict=True)) or "mean over folds"
        look: dict[str, Any] = {"color": colour(_COLOURS[number % len(_COLOURS)]), "marker": "o", "markersize": 4, "capsize": 3}
        places = [one["setting"][across] for one in members]
        axes.errorbar(places, [factor * one["mean"] for one in members], [factor * one["std"] for one in members], label=label, **look)
    chosen = next(one for one in candidates if one["setting"] == about["setting"])
    star: dict[str, Any] = {"s": 110, "marker": "*", "color": colour("control"), "label": "chosen", "zorder": 4, "linewidths": 0}
    axes.scatter([chosen["setting"][across]], [factor * chosen["mean"]], **star)
    positive = [one["setting"][across] for one in candidates]
    if min(positive) > 0 and max(positive) / min(positive) > 8:
        axes.set_xscale("log")
        low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
        ticks = [10.0**power for power in range(low, high + 1)]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
    axes.set_xlabel(across.replace("_", " "))
    axes.set_ylabel(f"{words.title(about['metric'])}{' (%)' if factor == 100 else ''}")
    legend(axes)
    return svg(drawn, f"{words.title(about['metric'])} on held-out folds against {across}")


def map_plot(points: np.ndarray, labels: np.ndarray, run: RunFiles) -> Markup:
    """Samples in two dimensions, by class where there are few, else by what the label's size is."""
    drawn, (axes,) = figure(height=3.6)
    classes = labels.ndim == 1 and not np.issubdtype(labels.dtype, np.floating)
    names = run.names(int(labels.max()) + 1) if classes and len(labels) else []
    if classes and run.student.get("classes"):
        names = [str(name) for name in run.student["classes"]]
    if classes and len(names) <= _MOST_CLASSES:
        for number, name in enumerate(clipped(names, 14)):
            mine = labels == number
            look: dict[str, Any] = {"color": colour(_COLOURS[number % len(_COLOURS)]), "marker": _SHAPES[number // len(_COLOURS)]}
            axes.scatter(points[mine, 0], points[mine, 1], s=12, alpha=0.8, linewidths=0, label=name, **look)
        if len(names) <= 12:
            drawn.legend(labelcolor=colour("ink"), loc="outside right center", frameon=False, fontsize=8, handlelength=1)
    else:
        axes.scatter(points[:, 0], points[:, 1], s=12, alpha=0.7, linewidths=0, color=colour("student"), marker=MARKERS["student"])
    axes.set_xticks([])
    axes.set_yticks([])
    return svg(drawn, f"{len(points)} training samples in two dimensions of their features")


def _map(run: RunFiles) -> tuple[np.ndarray, np.ndarray, str] | None:
    """Points, labels and method of the map, where the folder has one."""
    place = run.path / "features" / "map.npz"
    if not place.exists():
        return None
    try:
        with np.load(place, allow_pickle=False) as content:
            points, labels, how = content["points"], content["labels"], str(content["how"])
        if len(points) != len(labels) or points.ndim != 2:
            raise ValueError("points and labels differ in length")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        run.gaps.append(f"features/map.npz can't be read: {' '.join(str(error).split())[:200]}")
        return None
    return points, labels, how
