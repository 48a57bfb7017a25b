"""Figures of a job of several runs: seeds side by side, generations, a chain by size, a sweep's Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from transfuse.report import words
from transfuse.report.drawing import EXTRAS, MARKERS, clipped, colour, figure, legend, plain_numbers, role, svg
from transfuse.report.series import short_key, shown, value_of

Run = Mapping[str, Any]
_MOST_RUNS = 60  # that a figure has room for
_MOST_KEYS = 4  # of a sweep that get a figure of their own
_FRONT = "student"  # colour of what is on the front


def figures(summary: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """(caption, figure) of those that the summary has the numbers for."""
    draw = {"seeds": _seeds, "folds": _folds, "generations": _generations, "chain": _chain, "sweep": _sweep}[summary["series"]]
    return draw(summary)


def _percent(name: str) -> float:
    return 100.0 if words.metric(name, 0.5).endswith("%") else 1.0


def _title(name: str) -> str:
    return f"{words.title(name)} (%)" if _percent(name) == 100 else words.title(name)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _folds(summary: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """The runs on folds, without the last one, whose figures are of other samples."""
    return _seeds({**summary, "runs": summary["runs"][:-1]}, "the samples that it holds out", "fold")


def _seeds(summary: Mapping[str, Any], where: str = "the test split", what: str = "seed") -> list[tuple[str, Markup]]:
    """A line per run from its control to its student."""
    name = summary["primary"]["name"]
    runs = [run for run in summary["runs"] if value_of(run, "student", name) is not None][:_MOST_RUNS]
    if not runs:
        return []
    drawn, (axes,) = figure(height=max(2.2, 0.24 * len(runs) + 1.2))
    heights = list(range(len(runs)))[::-1]
    for model in ("control", "student"):
        points = [
            (_percent(name) * value, height)
            for run, height in zip(runs, heights, strict=True)
            if (value := value_of(run, model, name)) is not None
        ]
        if points:
            across, up = zip(*points, strict=True)
            axes.scatter(across, up, s=40, marker=MARKERS[model], color=colour(model), label=model, zorder=3, linewidths=0)
            axes.axvline(sum(across) / len(across), color=colour(model), linewidth=1, linestyle="--", zorder=1)
    for run, height in zip(runs, heights, strict=True):
        ends = [_percent(name) * value for model in ("control", "student") if (value := value_of(run, model, name)) is not None]
        axes.plot([min(ends), max(ends)], [height, height], color=colour("line"), linewidth=3, solid_capstyle="round", zorder=2)
    axes.set_yticks(heights, clipped([run["name"].replace("_", " ") for run in runs]))
    axes.set_ylim(-0.7, len(runs) - 0.3)
    axes.set_xlabel(_title(name))
    axes.grid(axis="y", visible=False)
    drawn.legend(labelcolor=colour("ink"), loc="outside upper center", ncols=2, handlelength=1.2, frameon=False, fontsize=8.5)
    return [(f"{_capital(words.title(name))} of each run on {where}; dashed: means", svg(drawn, f"{words.title(name)} by {what}"))]


def _errorbars(axes: Axes, across: Sequence[float], runs: Sequence[Run], model: str, name: str, shift: float) -> None:
    """Points with 95 % intervals, joined by a line."""
    factor = _percent(name)
    points = [
        (where + shift, run["models"][model]) for where, run in zip(across, runs, strict=True) if value_of(run, model, name) is not None
    ]
    if not points:
        return
    values = [factor * block["metrics"][name] for _, block in points]
    bounds = [[factor * bound for bound in (block.get("intervals") or {}).get(name) or [block["metrics"][name]] * 2] for _, block in points]
    spread = [
        [max(0.0, value - low) for value, (low, _) in zip(values, bounds, strict=True)],
        [max(0.0, high - value) for value, (_, high) in zip(values, bounds, strict=True)],
    ]
    look: dict[str, Any] = {"color": colour(role(model)), "marker": MARKERS[role(model)], "markersize": 6, "linewidth": 1.3, "capsize": 3}
    axes.errorbar([where for where, _ in points], values, spread, label=model, **look)


def _generations(summary: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    name = summary["primary"]["name"]
    runs = summary["runs"]
    drawn, (axes,) = figure()
    numbers = [float(run["name"].rpartition("_")[2]) for run in runs]
    _errorbars(axes, numbers, runs, "control", name, 0.06)
    _errorbars(axes, numbers, runs, "student", name, -0.06)
    for model, look in (("ensemble", "student"), ("control_ensemble", "control")):
        value = value_of(summary, model, name)
        if value is not None:
            axes.axhline(_percent(name) * value, color=colour(look), linestyle="--", linewidth=1.1, label=model.replace("_", " "))
    axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
    axes.set_xlabel("generation")
    axes.set_ylabel(_title(name))
    legend(axes)
    return [
        (
            f"{_capital(words.title(name))} by generation, with 95% intervals over test samples",
            svg(drawn, f"{words.title(name)} by generation"),
        )
    ]


def _chain(summary: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    name, factor = summary["primary"]["name"], _percent(summary["primary"]["name"])
    runs = [run for run in summary["runs"] if run["name"] != "without_assistants"]
    points: list[tuple[str, Mapping[str, Any], str]] = []
    for called, block in (runs[0].get("teachers") or {}).items():
        points.append((called, block, "teacher"))
    points += [(run["name"].replace("_", " "), run["models"]["student"], "student") for run in runs]
    points = [point for point in points if point[1].get("parameters") and point[1]["metrics"].get(name) is not None]
    if not points:
        return []
    drawn, (axes,) = figure()
    axes.plot(
        [block["parameters"] for _, block, _ in points],
        [factor * block["metrics"][name] for _, block, _ in points],
        color=colour("line"),
        linewidth=2,
        zorder=1,
    )
    for index, (called, block, look) in enumerate(points):
        label = {"teacher": "teacher", "student": "chain"}[look] if index == 0 or points[index - 1][2] != look else None
        axes.scatter(
            [block["parameters"]], [factor * block["metrics"][name]], s=44, marker=MARKERS[look], color=colour(look), label=label, zorder=3
        )
        axes.annotate(
            called,
            (block["parameters"], factor * block["metrics"][name]),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=colour("ink"),
        )
    last = points[-1][1]["parameters"]
    for model, look, marker in (("without_assistants", "extra-1", "D"), ("control", "control", MARKERS["control"])):
        value = value_of(summary, model, name)
        if value is not None:
            axes.scatter([last], [factor * value], s=44, marker=marker, color=colour(look), label=model.replace("_", " "), zorder=3)
    axes.set_xscale("log")
    sizes = [block["parameters"] for _, block, _ in points]
    axes.set_xlim(min(sizes) / 2.2, max(sizes) * 2.2)
    plain_numbers(axes.xaxis, math.log10(max(sizes) / min(sizes)) + 0.7)
    axes.margins(y=0.16)
    axes.set_xlabel("parameters")
    axes.set_ylabel(_title(name))
    legend(axes)
    return [(f"{_capital(words.title(name))} along the chain", svg(drawn, f"{words.title(name)} against parameters along the chain"))]


# a sweep


def _sweep(summary: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    metric = summary["selection"]["metric"]
    found = []
    for cost, title in (("bytes", "size of the weights"), ("latency", "latency at batch 1 (ms)")):
        drawn = _pareto(summary, cost, title)
        if drawn is not None:
            caption = f"{_capital(words.title(metric))} on validation against {title.removesuffix(' (ms)')}"
            found.append((f"{caption}; none is better at its cost than those on the line", drawn))
    keys = list(dict.fromkeys(key for run in summary["runs"] for key in run["differs"] if key != "seed"))
    for key in keys[:_MOST_KEYS]:
        drawn = _by_key(summary, key)
        if drawn is not None:
            found.append((f"{_capital(words.title(metric))} on validation by {short_key(key)}", drawn))
    return found


def _cost(point: Mapping[str, Any], cost: str) -> float | None:
    return (point.get("cost") or {}).get("bytes") if cost == "bytes" else words.latency(point.get("cost") or {})


def _pareto(summary: Mapping[str, Any], cost: str, title: str) -> Markup | None:
    """Every configuration, those on the front joined by a line; the chosen one is filled."""
    metric, higher = summary["selection"]["metric"], summary["selection"]["higher_is_better"]
    factor = _percent(metric)
    points = [
        (where, factor * point["validation"], point) for point in summary["configurations"] if (where := _cost(point, cost)) is not None
    ]
    if not points:
        return None
    drawn, (axes,) = figure()
    best = _outline([(where, value) for where, value, _ in points], higher)
    axes.plot(
        [where for where, _ in best], [value for _, value in best], color=colour(_FRONT), linewidth=1.2, drawstyle="steps-post", zorder=1
    )
    for label, fill, group in (
        ("other", colour("muted"), [point for point in points if not point[2]["front"]]),
        ("on the front", colour(_FRONT), [point for point in points if point[2]["front"]]),
        ("chosen", colour("control"), [point for point in points if point[2]["chosen"]]),
    ):
        if group:
            size, marker = (80, "*") if label == "chosen" else (30, "o")
            axes.scatter(
                [where for where, _, _ in group],
                [value for _, value, _ in group],
                s=size,
                marker=marker,
                color=fill,
                label=label,
                zorder=3,
                linewidths=0,
            )
    costs = [where for where, _, _ in points]
    axes.set_xscale("log")
    axes.set_xlim(min(costs) / 1.6, max(costs) * 1.6)
    plain_numbers(axes.xaxis, math.log10(max(costs) / min(costs)) + 0.4)
    axes.set_xlabel("bytes" if cost == "bytes" else title)
    axes.set_ylabel(f"validation {_title(metric)}")
    legend(axes)
    return svg(drawn, f"Validation {words.title(metric)} against {title} of {len(points)} configurations")


def _outline(points: Sequence[tuple[float, float]], higher: bool) -> list[tuple[float, float]]:
    """The points that none at equal or less cost surpasses, by rising cost."""
    sign = 1 if higher else -1
    found: list[tuple[float, float]] = []
    for where, value in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not found or sign * value > sign * found[-1][1]:
            found.append((where, value))
    return found


def _in_order(values: Sequence[Any]) -> list[str]:
    """Different values as text: lists of numbers by size, all else by alphabet."""
    try:
        return list(dict.fromkeys(shown(value) for value in sorted(values)))
    except TypeError:  # values of several kinds
        return sorted({shown(value) for value in values})


def _by_key(summary: Mapping[str, Any], key: str) -> Markup | None:
    """Validation against one key's value, over all trials that ran to the end."""
    metric = summary["selection"]["metric"]
    points = [
        (run["differs"][key], _percent(metric) * run["validation"][metric])
        for run in summary["runs"]
        if key in run["differs"] and (run.get("validation") or {}).get(metric) is not None
    ]
    values = [value for value, _ in points]
    if len({shown(value) for value in values}) < 2:
        return None
    drawn, (axes,) = figure(height=2.6)
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if numbers:
        where = [float(value) for value in values]
        if min(where) > 0 and max(where) / min(where) > 8:
            axes.set_xscale("log")
            plain_numbers(axes.xaxis, math.log10(max(where) / min(where)))
    else:
        names = _in_order(values)
        where = [float(names.index(shown(value))) for value in values]
        axes.set_xticks(range(len(names)), clipped(names, max(6, 44 // len(names))))
        axes.set_xlim(-0.5, len(names) - 0.5)
    axes.scatter(where, [value for _, value in points], s=28, color=colour(EXTRAS[2]), linewidths=0, alpha=0.85)
    axes.set_xlabel(short_key(key))
    axes.set_ylabel(f"validation {_title(metric)}")
    return svg(drawn, f"Validation {words.title(metric)} by {key}")
