"""What a run's student was exported to, from the verify.json beside each file: what passed, how fast, what it lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfuse.report.fusion import Table

NOTE = "Every file was opened again and run on {samples} real samples through its own preprocessing; times: one sample, one thread."


def tables(run: Path) -> list[Table]:
    """One table of all exports; none where the run has no export."""
    found = verdicts(run)
    if not found:
        return []
    most = max(int(verdict.get("samples") or 0) for verdict in found.values())
    said = [f"{name}: {remark}." for name, verdict in found.items() for remark in [*verdict.get("failures", []), *verdict["remarks"]]]
    note = " ".join([NOTE.format(samples=f"{most:,}"), *said])
    return [Table("Exported files", note, [row(name, verdict) for name, verdict in found.items()])]


def verdicts(run: Path) -> dict[str, dict[str, Any]]:
    """Target -> verify.json; damaged ones are left out."""
    found = {}
    for path in sorted((run / "exports").glob("*/verify.json")):
        try:
            verdict = json.loads(path.read_text(encoding="utf-8"))
            row(path.parent.name, verdict)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        found[path.parent.name] = verdict
    return found


def row(name: str, verdict: Mapping[str, Any]) -> dict[str, str]:
    """One export as a row of text."""
    metric, times = verdict.get("metric") or {}, verdict["latency_ms"]
    percent = metric.get("name") != "rmse"
    value, loss, interval = metric.get("file"), metric.get("loss"), metric.get("interval")
    shown = "" if value is None else f"{100 * value:.2f}%" if percent else f"{value:.4g}"
    lost = "" if loss is None else f"{100 * loss:.2f}{' points' if percent else '%'}"
    if interval and loss:
        lost += f" ({100 * interval[0]:.2f} to {100 * interval[1]:.2f})"
    difference = verdict.get("largest_difference")
    return {
        "target": name,
        "verdict": "passed" if verdict["passed"] else "FAILED",
        "file": str(verdict["file"]),
        "size": f"{verdict['bytes'] / 1e6:.3g} MB" if verdict["bytes"] >= 1e6 else f"{verdict['bytes'] / 1e3:.3g} kB",
        "largest difference": "" if difference is None else f"{difference['relative']:.1e}",
        "agreement": f"{100 * verdict['agreement']:.2f}%" if "agreement" in verdict else "",
        metric.get("name", "metric"): shown,
        "lost": lost,
        "p50": f"{times['p50']:.3g} ms",
        "times torch": f"{times['against']['the network in torch']['ratio']:.2f}",
    }
