"""The diagnosis of a weight merge as tables: where the weights come from, the loss between them, and what becomes of activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transfuse.report import words

MOST_LAYERS = 24
PAIRS = (
    "Same initial weights: told from which units resemble each other. Sign conflicts: share of weights (with a base: of the largest "
    "changes) with opposite signs; half of them where networks have nothing to do with each other. Barrier: how far the loss rises above "
    "the straight line between its ends. Lost halfway: the share of what the better one knows that is lost in the middle."
)
PATH = (
    "Mean loss of labelled training samples along the straight line between the weights, BatchNorm's statistics re-estimated at each point."
)
RATIOS = "Variance of a layer's outputs halfway, over the mean of that at both ends; 1 is no collapse."


def tables(summary: Mapping[str, Any]) -> list[tuple[str, str, list[dict[str, str]]]]:
    """(heading, note, rows) of each table; empty where no weights were looked at."""
    found = summary["fusion"].get("diagnosis") or {}
    pairs = found.get("pairs") or []
    if not pairs:
        return []
    listed = [("Whether the weights can be merged", f"{PAIRS}{first_alone(pairs)}", [pair_row(pair) for pair in pairs])]
    paths = [(name, path) for pair in pairs for name, path in paths_of(pair)]
    if paths:
        listed.append(("The loss between the sources", PATH, [path_row(name, path) for name, path in paths]))
    rows = ratio_rows(paths)
    if rows:
        shown = f" The {MOST_LAYERS} layers with the smallest." if len(rows) == MOST_LAYERS else ""
        listed.append(("What becomes of activations halfway", RATIOS + shown, rows))
    return listed


def first_alone(pairs: list[Mapping[str, Any]]) -> str:
    """That not every pair was looked at, where there are more than two sources."""
    if len(pairs) < 2:
        return ""
    return f" Every source is compared with the first, {pairs[0]['sources'][0]}; the others are not compared with each other."


def pair_row(pair: Mapping[str, Any]) -> dict[str, str]:
    """One source beside the first."""
    path, aligned = pair.get("path") or {}, pair.get("path after alignment") or {}
    shared = pair.get("same initial weights")
    origin = "can't be told" if shared is None else "yes" if shared else "no"
    return {
        "sources": " and ".join(pair["sources"]),
        "same initial weights": "copies" if pair["same weights"] else origin,
        "cosine": number(pair.get("cosine")),
        "sign conflicts": words.share(pair.get("sign conflicts")),
        "barrier": number(path.get("barrier")) if path else "not measured",
        "lost halfway": words.share(path.get("lost halfway")),
        "lost after alignment": words.share(aligned.get("lost halfway")),
    }


def paths_of(pair: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The lines that were walked between two sources, by name."""
    names = " to ".join(pair["sources"])
    for key, name in (("path", names), ("path after alignment", f"{names}, units aligned")):
        if pair.get(key):
            yield name, pair[key]


def path_row(name: str, path: Mapping[str, Any]) -> dict[str, str]:
    """Losses at each point."""
    losses = {f"at {position:g}": number(loss) for position, loss in zip(path["positions"], path["losses"], strict=True)}
    return {"line": name, **losses, "halfway, units repaired": number(path.get("repaired")), "says nothing": number(path.get("ignorant"))}


def ratio_rows(paths: list[tuple[str, Mapping[str, Any]]]) -> list[dict[str, str]]:
    """One row per layer, one column per line; of many layers those that collapse most."""
    layers: dict[str, dict[str, float]] = {}
    for name, path in paths:
        for layer, ratio in (path.get("variance_ratios") or {}).items():
            layers.setdefault(layer, {})[name] = ratio
    if len(layers) > MOST_LAYERS:
        kept = sorted(layers, key=lambda layer: min(layers[layer].values()))[:MOST_LAYERS]
        layers = {layer: ratios for layer, ratios in layers.items() if layer in kept}
    return [{"layer": layer, **{name: number(ratios.get(name)) for name, _ in paths}} for layer, ratios in layers.items()]


def number(value: float | None) -> str:
    """Three significant digits; empty for what was not measured."""
    return "" if value is None else f"{value:.3g}"
