"""What a student may cost, in words: of a run, of an evaluation's first model, and of the runs of a series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfuse.evaluate import budget
from transfuse.report import words

_SHOWN = {"bytes": ("size", words.size), "latency_ms": ("latency at batch 1 (p50)", words.milliseconds)}


def verdicts(summary: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Limit -> {"asked", "is", "met"}, as the summary has them; of a summary that has none, from the recipe's limits and the figures."""
    if summary.get("budget"):
        return {name: found for name, found in summary["budget"].items() if name in _SHOWN}
    limits = recipe.get("budget") or {}
    if summary.get("models"):
        first = next(iter(summary["models"].values()))
        return budget.verdicts(limits, summary["models"].get("student", first))
    students = [(run.get("models") or {}).get("student") for run in summary.get("runs") or []]
    return budget.over_runs([budget.verdicts(limits, student) for student in students if student])


def lines(summary: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[tuple[bool | None, str]]:
    """(met, or None if not measured; sentence) of each limit."""
    return [(found["met"], _sentence(name, found)) for name, found in verdicts(summary, recipe).items()]


def _sentence(name: str, found: Mapping[str, Any]) -> str:
    title, show = _SHOWN[name]
    what, asked = title[0].upper() + title[1:], f"at most {show(found['asked'])} was asked for"
    if found["is"] is None:
        return f"{what}: {asked}; it was not measured."
    if "of" in found:
        return f"{what}: {asked}; met in {found['met_in']} of {found['of']} runs, of which the largest has {show(found['is'])}."
    return f"{what}: {show(found['is'])}, {asked}: {'met' if found['met'] else 'missed'}."


def cell(summary: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """All limits in a word or two for a table; empty where nothing was asked."""
    found = verdicts(summary, recipe)
    if not found:
        return ""
    if all(verdict["met"] for verdict in found.values()):
        return "met"
    said = []
    for name, verdict in found.items():
        what = _SHOWN[name][0].split()[0]
        if verdict["met"] is None:
            said.append(f"{what} not measured")
        elif not verdict["met"]:
            said.append(f"{what} met in {verdict['met_in']} of {verdict['of']}" if "of" in verdict else f"{what} missed")
    return ", ".join(said)
