"""The report's figures: accuracy against size, learning curves, classes, calibration, regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.transforms import ScaledTranslation

from transfuse.evaluate.calibration import Reliability
from transfuse.report import words
from transfuse.report.collect import Curve, Predictions
from transfuse.report.drawing import EXTRAS, MARKERS, clipped, colour, figure, legend, plain_numbers, role, svg
from transfuse.report.perclass import ClassRow

_MOST_POINTS = 300  # of a curve
_MOST_DOTS = 600  # of a scatter plot
_FEWEST = 5  # samples in a bin that is drawn
_PERCENT = 100


def scale(name: str) -> float:
    """100 for metrics that are shown in per cent, else 1."""
    return _PERCENT if words.metric(name, 0.5).endswith("%") else 1


def axis_title(name: str) -> str:
    """A metric's name on an axis, with its unit."""
    return f"{words.title(name)} (%)" if scale(name) == _PERCENT else words.title(name)


def size_plot(models: Mapping[str, Mapping[str, Any]], name: str) -> Markup | None:
    """Primary metric with its 95 % interval against the number of parameters."""
    shown = {model: block for model, block in models.items() if block.get("parameters") and block["metrics"].get(name) is not None}
    if not shown:
        return None
    drawn, (axes,) = figure()
    factor = scale(name)
    reach: list[float] = []
    for model, block in shown.items():
        value = factor * block["metrics"][name]
        low, high = (factor * bound for bound in block.get("intervals", {}).get(name, (value / factor, value / factor)))
        reach += [low, value, high]
        shift = {"student": -4, "control": 4}.get(model, 0) if "control" in shown else 0  # points: both have the same size
        place = axes.transData + ScaledTranslation(shift / 72, 0, drawn.dpi_scale_trans)
        look: dict[str, Any] = {"color": colour(role(model)), "transform": place, "label": model}
        spread = [[max(0, value - low)], [max(0, high - value)]]
        axes.errorbar([block["parameters"]], [value], spread, marker=MARKERS[role(model)], markersize=7, capsize=3, linewidth=1.5, **look)
    margin = 0.08 * (max(reach) - min(reach)) or 0.05 * abs(max(reach)) or 1
    axes.set_ylim(min(reach) - margin, max(reach) + margin)  # shifted marks don't take part in autoscaling
    axes.set_xscale("log")
    sizes = [block["parameters"] for block in shown.values()]
    axes.set_xlim(min(sizes) / 2.2, max(sizes) * 2.2)
    plain_numbers(axes.xaxis, np.log10(max(sizes) / min(sizes)) + 0.7)
    axes.set_xlabel("parameters")
    axes.set_ylabel(axis_title(name))
    legend(axes)
    listed = "; ".join(
        f"{model} {block['parameters']:,} parameters, {words.metric(name, block['metrics'][name])}" for model, block in shown.items()
    )
    return svg(drawn, f"{words.title(name)} against parameters: {listed}")


def _thinned(rows: Sequence[Any]) -> Sequence[Any]:
    step = -(-len(rows) // _MOST_POINTS)
    return [*rows[::step], rows[-1]] if step > 1 else rows


def _position(row: Mapping[str, Any], by: str) -> float:
    return float(row[by])


def _points(rows: Sequence[Mapping[str, Any]], by: str, value: Any) -> tuple[list[float], list[float]]:
    pairs = [(_position(row, by), value(row)) for row in rows if row.get(by) is not None]
    kept = _thinned([(where, float(y)) for where, y in pairs if isinstance(y, (int, float))])
    return [where for where, _ in kept], [y for _, y in kept]


def _by(rows: Sequence[Mapping[str, Any]]) -> str:
    return "epoch" if rows and all(row.get("epoch") is not None for row in rows) else "step"


def curve_points(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Where and what of a validation metric's logged values, thinned."""
    return _points(rows, _by(rows), lambda row: (row.get("metrics") or {}).get(name))


def _stages(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows by the stage that they were logged in, in order; the last one has no name."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(str(row.get("stage") or ""), []).append(row)
    return found


def _broken(stages: Mapping[str, Sequence[Mapping[str, Any]]], by: str, value: Any) -> tuple[list[float], list[float]]:
    """A line with a gap between stages, whose losses are different things."""
    where: list[float] = []
    values: list[float] = []
    for rows in stages.values():
        found = _points(rows, by, value)
        gap = [float("nan")] if where and found[0] else []
        where, values = where + gap + found[0], values + gap + found[1]
    return where, values


def loss_plot(curve: Curve, whose: str = "the student") -> Markup | None:
    """A training loss and its terms as they were logged, before weighting; a dotted line where a stage ends."""
    by, stages = _by(curve.train), _stages(curve.train)
    every = list(dict.fromkeys(name for row in curve.train for name in row.get("terms") or {}))
    names = [name for name in every if not name.startswith("peer ")]  # another network's
    summed = "loss (weighted sum)" if names == every else "loss (weighted sum, peers' terms too)"
    series = [("loss", _broken(stages, by, lambda row: row.get("loss")))]
    series += [(name, _broken(stages, by, lambda row, name=name: (row.get("terms") or {}).get(name))) for name in names]
    series = [(name, points) for name, points in series if points[0]]
    if not series:
        return None
    drawn, (axes,) = figure()
    for number, (name, (where, values)) in enumerate(series):
        total = name == "loss" and number == 0
        look = {"color": colour("student" if total else EXTRAS[(number - 1) % len(EXTRAS)]), "linewidth": 2.0 if total else 1.4}
        axes.plot(where, values, label=summed if total else name, linestyle="-" if total else ("--", ":", "-.")[number % 3], **look)
    positive = [value for _, (_, values) in series for value in values if value > 0]
    if positive and min(positive) * 50 < max(positive):
        axes.set_yscale("log")
        plain_numbers(axes.yaxis, np.log10(max(positive) / min(positive)))
    for name, rows in list(stages.items())[:-1]:
        end = max(_points(rows, by, lambda row: 0.0)[0], default=0.0)
        axes.axvline(end, color=colour("muted"), linestyle=":", linewidth=1.2)
        place = axes.get_xaxis_transform()  # data along, axes up
        axes.text(end, 1.0, f"{name} alone ", transform=place, ha="right", va="bottom", fontsize=8, color=colour("muted"))
    axes.set_xlabel(by)
    axes.set_ylabel(f"training loss of {whose}")
    legend(axes)
    first = "".join(f"; {name} alone at first" for name in list(stages)[:-1])
    return svg(drawn, f"Training loss of {whose} and its terms over time{first}")


def validation_plot(curves: Mapping[str, Curve], name: str) -> Markup | None:
    """The primary metric on the validation split during training, for every run that logged it."""
    factor = scale(name)
    drawn, (axes,) = figure()
    logged = [row for curve in curves.values() for row in curve.val]
    by, shown = _by(logged), []
    order = ["student", "control", *[run for run in curves if run not in ("student", "control")]]
    for run in order:
        if run not in curves:
            continue
        where, values = _points(curves[run].val, by, lambda row: (row.get("metrics") or {}).get(name))
        if not where:
            continue
        marker = MARKERS[role(run)] if len(where) <= 40 else None
        scaled = [factor * value for value in values]
        axes.plot(where, scaled, label=run, color=colour(role(run)), marker=marker, markersize=3.5, linewidth=1.5)
        shown.append(run)
    if not shown:
        return None
    axes.set_xlabel(by)
    axes.set_ylabel(f"validation {axis_title(name)}")
    legend(axes)
    return svg(drawn, f"Validation {words.title(name)} over time for {', '.join(shown)}")


def class_plot(rows: Sequence[ClassRow], measure: str) -> Markup:
    """One line per class with a mark per model; the student's largest deficit stands at the top."""
    drawn, (axes,) = figure(height=0.75 + 0.24 * len(rows))
    heights = list(range(len(rows)))[::-1]
    for height, row in zip(heights, rows, strict=True):
        values = [_PERCENT * value for value in row.values.values()]
        axes.plot([min(values), max(values)], [height, height], color=colour("line"), linewidth=3, solid_capstyle="round")
    for model in ("teacher", "control", "student"):
        drawn_of = [
            (height, _PERCENT * row.values[key])
            for height, row in zip(heights, rows, strict=True)
            for key in row.values
            if role(key) == model
        ]
        if drawn_of:
            where, values = zip(*drawn_of, strict=True)
            axes.scatter(values, where, s=34, marker=MARKERS[model], color=colour(model), label=model, zorder=3, linewidths=0)
    labels = [f"{name} ({row.samples})" for name, row in zip(clipped([row.name for row in rows]), rows, strict=True)]
    axes.set_yticks(heights, labels)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel(f"{measure} (%), test samples in brackets")
    axes.grid(axis="y", visible=False)
    drawn.legend(labelcolor=colour("ink"), loc="outside upper center", ncols=3, handlelength=1.2, frameon=False, fontsize=8.5)
    return svg(drawn, f"{measure} by class for each model")


def reliability_plot(found: Mapping[str, Reliability]) -> Markup:
    """Accuracy against confidence in bins of equal width, where five samples or more fall; on the diagonal confidence comes true."""
    drawn, (axes,) = figure()
    axes.plot([0, _PERCENT], [0, _PERCENT], color=colour("muted"), linewidth=1, linestyle="--")
    for model, bins in found.items():
        filled = bins.count >= _FEWEST
        look: dict[str, Any] = {"color": colour(role(model)), "marker": MARKERS[role(model)], "markersize": 4, "linewidth": 1.3}
        axes.plot(_PERCENT * bins.confidence[filled], _PERCENT * bins.accuracy[filled], label=model, **look)
    axes.set_xlabel("confidence of the prediction (%)")
    axes.set_ylabel("accuracy (%)")
    legend(axes)
    return svg(drawn, "Accuracy against confidence for each model")


def regression_plots(models: Mapping[str, Predictions], column: int, unit_name: str) -> list[Markup]:
    """Predicted against true values, and errors against predictions, of student and control for one target."""
    shown = {model: models[model] for model in ("control", "student") if model in models}
    figures = []
    for errors in (False, True):
        drawn, (axes,) = figure(height=3.2)
        for model, answers in shown.items():
            true, predicted = _column(answers.labels, column), _column(answers.outputs, column)
            pick = np.unique(np.linspace(0, len(true) - 1, min(len(true), _MOST_DOTS)).astype(int))
            across, up = (predicted, predicted - true) if errors else (true, predicted)
            look: dict[str, Any] = {"color": colour(model), "marker": MARKERS[model], "alpha": 0.75 if model == "student" else 0.5}
            axes.scatter(across[pick], up[pick], s=14, label=model, linewidths=0, **look)
        true = _column(next(iter(shown.values())).labels, column)
        if errors:
            axes.axhline(0, color=colour("ink"), linewidth=1)
        else:
            axes.plot([np.nanmin(true), np.nanmax(true)], [np.nanmin(true), np.nanmax(true)], color=colour("ink"), linewidth=1)
        name = clipped([unit_name], 28)[0]
        axes.set_xlabel(f"predicted {name}" if errors else f"true {name}")
        axes.set_ylabel("predicted - true" if errors else f"predicted {name}")
        legend(axes)
        figures.append(svg(drawn, f"{'Errors' if errors else 'Predicted against true values'} of {', '.join(shown)} for {unit_name}"))
    return figures


def _column(values: np.ndarray, column: int) -> np.ndarray:
    return values if values.ndim == 1 else values[:, column]
