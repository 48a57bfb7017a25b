"""What each source is worth to the fused features that were taken, as rows: weight in the rule, alone, left out, Shapley value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfuse.report import words

NOTE = (
    "In {metric} on validation; every set of sources has a head of its own, trained in the same way. Listened to: the source's mean share "
    "in the rule's weights. Alone: a head on its features only. Left out: what is lost without it. Shapley's share: what it adds, averaged "
    "over all orders in which sources can join."
)


def rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per source; empty where no rule on features was taken, or nothing of this was measured."""
    found, metric = summary["fusion"], summary["primary"]["name"]
    way = next((way for way in found["ways"] if way["name"] == found["chosen"] and way["name"].startswith("features.")), {})
    worth, shares, alpha = way.get("contributions") or {}, way.get("shares") or {}, way.get("alpha") or {}
    named = list(way.get("dims") or {}) if worth or shares else []
    listed = []
    for source in named:
        row = {"source": source, "features": f"{way['dims'][source]:,}"}
        if source in alpha:
            row["alpha"] = f"{alpha[source]:.3f}"
        if source in shares:
            row["listened to"] = words.share(shares[source]["mean"])
        if worth:
            row["alone"] = words.metric(metric, worth["alone"][source])
        for key, title in (("leave_one_out", "left out"), ("shapley", "Shapley's share")):
            if source in worth.get(key, {}):
                row[title] = words.difference(metric, worth[key][source])
        listed.append(row)
    return listed
