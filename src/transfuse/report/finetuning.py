"""What a page says of a fine-tuning beside its figures: policy, learning rates that were found, policies that were tried."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from transfuse.report import words
from transfuse.report.collect import RunFiles
from transfuse.report.drawing import EXTRAS, colour, figure, legend, plain_numbers, svg

CONTROL = "the same network, trained from scratch on the labels in as many steps"


def lines(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, answer) for the table of what was asked."""
    found = []
    depth = recipe.get("depth")
    if isinstance(depth, dict):
        tried = ", ".join(map(words.policy, depth.get("candidates") or []))
        where = f"{depth['folds']} folds of the training part" if depth.get("folds") else "the validation part"
        found.append(("Policy", f"chosen among {tried} by successive halving on {where}"))
    elif recipe.get("policy"):
        found.append(("Policy", words.policy(recipe["policy"])))
    meant = {
        "follow": "statistics move where weights are trained",
        "train": "statistics always move",
        "frozen": "statistics and weights stay",
    }
    if recipe.get("batchnorm"):
        found.append(("BatchNorm", meant.get(recipe["batchnorm"], str(recipe["batchnorm"]))))
    if isinstance(recipe.get("average"), dict):
        found.append(("Average", str(recipe["average"].get("how", "")).replace("_", " ")))
    known = {"reuse": f"{CONTROL} (a stored one is reused)", "train": CONTROL}
    control = str(recipe.get("control"))
    return [*found, ("Control", known.get(control, control))]


def figures(run: RunFiles) -> list[tuple[str, Markup | None]]:
    """(caption, figure) of the search among policies and of the range tests."""
    found: list[tuple[str, Markup | None]] = []
    if depth := _read(run, run.path / "depth.json"):
        for number, one in enumerate(depth.get("rounds") or [], 1):
            caption = f"Policies tried, round {number}: {depth['metric']} on samples held out, mean over {depth['folds']} folds"
            found.append((caption, _tried(one, str(depth["metric"]))))
    for place in sorted((run.path / "lr_finder").glob("*.json")):
        known = _read(run, place)
        if known and known.get("curve"):
            found.append((f"Learning-rate range test of the {place.stem}", _range(known, place.stem)))
    return found


def _read(run: RunFiles, place: Path) -> dict[str, Any] | None:
    if not place.exists():
        return None
    try:
        return json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        run.gaps.append(f"{place.name} can't be read: {' '.join(str(error).split())[:200]}")
        return None


def _tried(one: Mapping[str, Any], metric: str) -> Markup | None:
    drawn, (axes,) = figure()
    listed = []
    for number, (name, curves) in enumerate(one["curves"].items()):
        where, values = _mean(curves)
        look = {"color": colour(EXTRAS[number % len(EXTRAS)]), "linestyle": ("-", "--", ":", "-.")[number % 4], "linewidth": 1.6}
        axes.plot(where, values, label=name, marker="o" if len(where) < 2 else None, **look)
        listed.append(f"{name} {statistics.mean(one['scores'][name]):.4g}")
    axes.set_xlabel("step")
    axes.set_ylabel(metric)
    legend(axes)
    return svg(drawn, f"{metric} on samples held out for each policy that was tried: {', '.join(listed)}")


def _mean(curves: Sequence[Sequence[Sequence[float]]]) -> tuple[list[float], list[float]]:
    """The mean of several curves over the steps that all have."""
    tables = [{int(step): value for step, value in curve} for curve in curves]
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    return [float(step) for step in shared], [statistics.mean(table[step] for table in tables) for step in shared]


def _range(known: Mapping[str, Any], whose: str) -> Markup | None:
    drawn, (axes,) = figure()
    rates, losses, smoothed = zip(*known["curve"], strict=True)
    axes.plot(rates, losses, color=colour("muted"), linewidth=1.0, label="loss")
    axes.plot(rates, smoothed, color=colour("student"), linewidth=2.0, label="running mean")
    axes.set_xscale("log")
    plain_numbers(axes.xaxis, float(np.log10(max(rates) / min(rates))) or 1.0)
    if known.get("lr"):
        axes.axvline(known["lr"], color=colour("ink"), linestyle=":", linewidth=1.4, label=f"taken: {known['lr']:.2g}")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    legend(axes)
    taken = f"; {known['lr']:.2g} is taken" if known.get("lr") else "; none is taken"
    return svg(drawn, f"Training loss of the {whose} while the learning rate rises from {min(rates):.1g} to {max(rates):.1g}{taken}")
