"""The one table of a run, for the page, the card and the console: student, control and teachers side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfuse.report import words


def rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per model, student first; keys are the column headers in order, values are ready to show.

    Columns in which no model has a value are left out.
    """
    name = summary["primary"]["name"]
    transfer = summary.get("transfer") or {}
    agreement = {"student": transfer.get("agreement"), "control": transfer.get("control_agreement")}
    together = "agreement with sources" if "fusion" in summary else "agreement with teacher"
    found = []
    for model, block in models(summary).items():
        found.append(
            {
                "model": model,
                words.title(name): words.metric(name, (block.get("metrics") or {}).get(name)),
                "95% interval": words.interval(name, (block.get("intervals") or {}).get(name)),
                "parameters": words.count(block.get("parameters")),
                "MACs": words.quantity(block.get("macs")),
                "size": words.size(block.get("bytes")),
                "latency": words.milliseconds(words.latency(block)),
                together: words.share(agreement.get(model) if block in summary["models"].values() else None),
            }
        )
    empty = [column for column in found[0] if not any(row[column] for row in found)]
    return [{column: value for column, value in row.items() if column not in empty} for row in found]


def all_metrics(blocks: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[tuple[str, list[tuple[str, str]]]]]:
    """Every metric of every model as summary.json has it: (models, [(metric, [(value, interval)])])."""
    names = list(dict.fromkeys(name for block in blocks.values() for name in block.get("metrics") or {}))

    def cell(block: Mapping[str, Any], name: str) -> tuple[str, str]:
        value, bounds = (block.get("metrics") or {}).get(name), (block.get("intervals") or {}).get(name)
        shown = f"{_digits(bounds[0], 3)} – {_digits(bounds[1], 3)}" if bounds else ""
        return "undefined" if value is None else _digits(value, 4), shown

    return list(blocks), [(words.title(name), [cell(block, name) for block in blocks.values()]) for name in names]


def _digits(value: float, digits: int) -> str:
    """Below 10 so many decimals, else so many significant digits."""
    return f"{value:.{digits}f}" if abs(value) < 10 else f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"


def reasons(blocks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Why values are undefined, once each; where several models share a reason it is said once."""
    said: dict[str, list[str]] = {}
    for model, block in blocks.items():
        for name, reason in (block.get("reasons") or {}).items():
            text = f"{'Interval of ' if name.startswith('intervals.') else ''}{words.title(name.removeprefix('intervals.'))}: {reason}"
            said.setdefault(text, []).append(model)
    return [f"{text} ({', '.join(models)})" for text, models in said.items()]


def models(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Student, control and teachers by the name that they have in tables; a lone teacher is "teacher" whatever it is called."""
    found: dict[str, Mapping[str, Any]] = {key: summary["models"][key] for key in ("student", "control") if key in summary["models"]}
    found |= {key: block for key, block in summary["models"].items() if key not in found}
    for key, block in (summary.get("teachers") or {}).items():
        found[key if key == "teacher" else f"teacher {key}"] = block
    for key, block in (summary.get("sources") or {}).items():
        found[f"source {key}"] = block
    return found


def latency_note(summary: Mapping[str, Any]) -> str:
    """How the latencies were measured, and which ones otherwise than the student's, in a sentence; empty where they weren't."""
    facts = summary["models"]["student"].get("latency_ms")
    if not facts:
        return ""
    own = words.measured_in(facts)
    ways = {model: words.measured_in(block["latency_ms"]) for model, block in models(summary).items() if block.get("latency_ms")}
    apart = "".join(f"; {model} in {way}" for model, way in ways.items() if way != own)
    return f"Latency: median of single forward passes (batch 1) in {own}{apart}."
