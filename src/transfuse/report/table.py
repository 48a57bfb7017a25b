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
                "size": words.size(block.get("bytes")),
                "latency": words.milliseconds(words.latency(block)),
                together: words.share(agreement.get(model) if block in summary["models"].values() else None),
            }
        )
    empty = [column for column in found[0] if not any(row[column] for row in found)]
    return [{column: value for column, value in row.items() if column not in empty} for row in found]


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
    """How the latencies were measured, in a sentence; empty where they weren't."""
    facts = summary["models"]["student"].get("latency_ms")
    if not facts:
        return ""
    threads = facts.get("threads")
    where = f", {threads} thread{'' if threads == 1 else 's'}" if threads else ""
    return f"Latency: median of single forward passes (batch 1) in {facts.get('runtime', 'torch')}, {facts.get('dtype', '')}{where}."
