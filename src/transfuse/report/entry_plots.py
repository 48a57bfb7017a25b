"""Figures with many models side by side: a line each, the front of accuracy and cost, curves, calibration, corruptions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from transfuse.evaluate.calibration import Reliability, reliability
from transfuse.evaluate.outcomes import ClassOutcomes
from transfuse.report import words
from transfuse.report.drawing import clipped, colour, figure, plain_numbers, svg
from transfuse.report.entries import MOST_LOOKS, Entry
from transfuse.report.plots import axis_title, curve_points, scale

MOST_LINES = 60  # of a figure with a line for each model
_NEAR = 0.07  # of the width and height of what is drawn; numbers that are nearer would touch
_APART = 1.02  # times; models whose costs differ by less have no front worth drawing
_MOST_BINNED = 6  # models in a calibration figure
_FEWEST = 5  # samples in a bin that is drawn


def _style(entry: Entry, size: float, line: float) -> dict[str, Any]:
    shade, marker = entry.look
    return {"color": colour(shade), "marker": marker, "markersize": size, "linewidth": line}


def _legend(axes: Axes, entries: Sequence[Entry]) -> None:
    """Names below the figure, where they hide nothing, the best first."""
    ranks = {_name(entry): entry.number for entry in entries}
    count = min(len(entries), MOST_LOOKS)
    drawn: Any = axes.figure
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    order = [position for position, _ in sorted(enumerate(labels), key=lambda pair: ranks.get(pair[1], len(ranks)))]
    drawn.legend(
        [handles[place] for place in order],
        [labels[place] for place in order],
        labelcolor=colour("ink"),
        loc="outside lower center",
        ncols=1 if count < 3 else 2,
        handlelength=1.8,
        frameon=False,
        fontsize=8,
    )


def _name(entry: Entry) -> str:
    return clipped([entry.label], 30)[0]


def _numbered(entry: Entry, length: int) -> str:
    """A name with the number that the table gives it: where there are many, short names may be alike."""
    return f"{entry.rank}  {clipped([entry.label], length)[0]}"


def dots(entries: Sequence[Entry]) -> Markup | None:
    """Each model's primary metric with its 95 % interval, on a line of its own, best first."""
    shown = [entry for entry in entries if entry.value is not None][:MOST_LINES]
    if not shown:
        return None
    name = shown[0].primary
    factor = scale(name)
    drawn, (axes,) = figure(height=0.8 + 0.24 * max(2, len(shown)))
    for height, entry in zip(range(len(shown))[::-1], shown, strict=True):
        value = factor * (entry.value or 0.0)
        low, high = (factor * bound for bound in entry.interval or [value / factor] * 2)
        spread = [[max(0.0, value - low)], [max(0.0, high - value)]]
        axes.errorbar([value], [height], xerr=spread, capsize=2.5, **_style(entry, 6, 1.3))
    axes.set_yticks(range(len(shown))[::-1], [_numbered(entry, 24) if len(entries) > MOST_LOOKS else _name(entry) for entry in shown])
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_xlabel(axis_title(name))
    axes.grid(axis="y", visible=False)
    return svg(drawn, f"{words.title(name)} with 95% intervals of {len(shown)} models, best first")


def front_of(points: Sequence[tuple[float, float]], higher: bool) -> list[int]:
    """Positions of the points that none at equal or less cost surpasses, by rising cost."""
    sign, best, found = 1 if higher else -1, -math.inf, []
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -sign * points[place][1])):
        if sign * points[place][1] > best:
            best = sign * points[place][1]
            found.append(place)
    return found


def pareto(entries: Sequence[Entry], cost: str) -> Markup | None:
    """Primary metric against size of the weights or latency; the line joins those that none at less cost surpasses."""
    priced = [(entry, entry.block.get("bytes") if cost == "bytes" else entry.latency) for entry in entries]
    shown = [(entry, float(price)) for entry, price in priced if price and entry.value is not None]
    if len(shown) < 2 or max(price for _, price in shown) < _APART * min(price for _, price in shown):
        return None
    name, higher = shown[0][0].primary, bool(shown[0][0].run.summary["primary"]["higher_is_better"])
    factor = scale(name)
    points = [(price, factor * (entry.value or 0.0)) for entry, price in shown]
    drawn, (axes,) = figure(height=3.1)
    front = front_of(points, higher)
    axes.plot(*zip(*[points[place] for place in front], strict=True), color=colour("line"), linewidth=2, drawstyle="steps-post", zorder=1)
    for entry, price in shown:
        value = factor * (entry.value or 0.0)
        low, high = (factor * bound for bound in entry.interval or [value / factor] * 2)
        spread = [[max(0.0, value - low)], [max(0.0, high - value)]] if len(shown) <= MOST_LOOKS else None
        label = _name(entry) if len(shown) <= MOST_LOOKS else None
        look = {**_style(entry, 7 if label else 5, 1.1), "capsize": 2.5}
        axes.errorbar([price], [value], yerr=spread, label=label, **look)
    if len(shown) > MOST_LOOKS:
        _name_front(axes, shown, points, front)
    prices = [price for _, price in shown]
    axes.set_xscale("log")
    axes.set_xlim(min(prices) / 1.7, max(prices) * 1.7)
    plain_numbers(axes.xaxis, math.log10(max(prices) / min(prices)) + 0.5)
    axes.margins(y=0.12)
    axes.set_xlabel("bytes of weights" if cost == "bytes" else "latency at batch 1 (ms, p50)")
    axes.set_ylabel(axis_title(name))
    if len(shown) <= MOST_LOOKS:
        _legend(axes, [entry for entry, _ in shown])
    return svg(drawn, f"{words.title(name)} against {cost} of {len(shown)} models")


def _name_front(axes: Axes, shown: Sequence[tuple[Entry, float]], points: Sequence[tuple[float, float]], front: Sequence[int]) -> None:
    """The table's numbers at points of the front, the best first; a point that is near one that has its number goes without."""
    costs, values = ([point[side] for point in points] for side in (0, 1))
    wide, high = math.log(max(costs) / min(costs)) or 1.0, max(values) - min(values) or 1.0
    look: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": 8, "fontweight": "bold", "color": colour("ink")}
    named: list[tuple[float, float]] = []
    for place in reversed(front):
        spot = math.log(points[place][0]) / wide, points[place][1] / high
        if all(math.dist(spot, other) > _NEAR for other in named):
            axes.annotate(str(shown[place][0].rank), points[place], xytext=(-4, 4), **look)
            named.append(spot)


def curves(entries: Sequence[Entry]) -> Markup | None:
    """The primary metric on the validation split while each was trained; with many, the best in colour and the others in grey."""
    name = entries[0].primary
    factor = scale(name)
    lines = [(entry, curve_points(entry.curve.val, name)) for entry in entries if entry.curve is not None]
    lines = [(entry, points) for entry, points in lines if points[1]]
    if not lines:
        return None
    drawn, (axes,) = figure(height=3.1)
    by = "epoch" if all(row.get("epoch") is not None for entry, _ in lines for row in entry.curve.val) else "step"  # type: ignore[union-attr]
    for entry, (where, values) in reversed(lines):
        told = entry.number < MOST_LOOKS
        label = _name(entry) if told else None
        look: dict[str, Any] = {
            "color": colour(entry.look[0] if told else "line"),
            "linewidth": 1.5 if told else 1,
            "zorder": 3 if told else 1,
        }
        axes.plot(where, [factor * value for value in values], label=label, **look)
    axes.set_xlabel(by)
    axes.set_ylabel(f"validation {axis_title(name)}")
    _legend(axes, [entry for entry, _ in lines])
    return svg(drawn, f"Validation {words.title(name)} over time of {len(lines)} models")


def bins_of(entry: Entry) -> Reliability | None:
    """A classifier's reliability bins, from its stored answers."""
    found = entry.outcomes
    return reliability(found.confidence, found.correct) if isinstance(found, ClassOutcomes) else None


def calibration(entries: Sequence[Entry]) -> Markup | None:
    """Accuracy against confidence of the best models; on the diagonal confidence comes true."""
    shown = [(entry, bins) for entry in entries[:_MOST_BINNED] if (bins := bins_of(entry)) is not None]
    if not shown:
        return None
    drawn, (axes,) = figure(height=3.1)
    axes.plot([0, 100], [0, 100], color=colour("muted"), linewidth=1, linestyle="--")
    for entry, bins in shown:
        filled = bins.count >= _FEWEST
        look = _style(entry, 4, 1.3)
        axes.plot(100 * bins.confidence[filled], 100 * bins.accuracy[filled], label=_name(entry), **look)
    axes.set_xlabel("confidence of the prediction (%)")
    axes.set_ylabel("accuracy (%)")
    _legend(axes, [entry for entry, _ in shown])
    return svg(drawn, f"Accuracy against confidence of {len(shown)} models")


def corrupted(entries: Sequence[Entry], kind: str | None = None) -> Markup | None:
    """Error by severity, 0 being the pictures as they are: mean over corruptions, or of one of them."""
    shown = [(entry, entry.robustness) for entry in entries if entry.robustness is not None]
    if not shown:
        return None
    drawn, (axes,) = figure(height=3.1 if kind is None else 2.2)
    for entry, found in shown[:MOST_LOOKS]:
        values = _by_severity(found, kind)
        if values:
            label = _name(entry)
            axes.plot([0, *entry.severities], [100 * value for value in values], label=label, **_style(entry, 4, 1.4))
    axes.set_xlabel("severity")
    axes.set_xticks(range(max(shown[0][0].severities) + 1))
    axes.set_ylabel("error (%)")
    _legend(axes, [entry for entry, _ in shown])
    return svg(drawn, f"Error by severity, {(kind or 'mean over corruptions').replace('_', ' ')}")


def _by_severity(found: Mapping[str, Any] | None, kind: str | None) -> list[float]:
    if found is None:
        return []
    rows = found["errors"].values() if kind is None else [found["errors"][kind]] if kind in found["errors"] else []
    return [found["clean_error"], *np.mean(list(rows), axis=0).tolist()] if rows else []
