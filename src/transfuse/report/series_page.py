"""report.html of a job of several runs: what they say together, a line for each, and the way to their own reports."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from transfuse.report import asked, budget, costs, exports, flow, series, series_plots
from transfuse.report.collect import RunFiles, collect_frame, write_whole
from transfuse.report.page import data_uri, environment_lines, script_json, style, template


def write(path: str | Path) -> Path:
    """Writes report.html into the finished parent folder, from what the folder holds.

    Raises:
        RunError: the folder holds no finished job, or can't be written.
    """
    return write_whole(Path(path) / "report.html", render(collect_frame(path)))


def render(run: RunFiles) -> str:
    """The page as text. Everything that comes from the runs is escaped."""
    summary = run.summary
    return template("series.html.j2").render(
        style=style(),
        run=run,
        summary=summary,
        heading=series.heading(summary, run.recipe),
        verdict=series.verdict(summary),
        budget=budget.lines(summary, run.recipe),
        models=series.model_rows(summary),
        rows=series.rows(summary),
        reports=[entry["path"] if (run.path / entry["path"] / "report.html").exists() else None for entry in summary["runs"]],
        notes=series.notes(summary),
        spreads=series.spread_rows(summary),
        spread_note=series.spread_note(summary),
        exported=exports.tables(run.path),
        costs=costs.tables({name.replace("_", " "): block for name, block in summary["models"].items()}),
        figures=series_plots.figures(summary),
        flow=flow.draw(run.recipe),
        asked=asked.lines(run.recipe),
        terms=asked.terms(run.recipe),
        environment=environment_lines(run.environment),
        numbers=script_json(summary),
        downloads=_downloads(run),
    )


def _downloads(run: RunFiles) -> list[tuple[str, str]]:
    """(file name, data URI) of the numbers as JSON and of the table as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    metrics: dict[tuple[str, str], None] = {}
    for entry in run.summary["runs"]:
        for model, block in (entry.get("models") or {}).items():
            metrics |= dict.fromkeys((model, name) for name in block["metrics"])
    keys = list(dict.fromkeys(key for entry in run.summary["runs"] for key in entry["differs"]))
    writer.writerow(["run", "state", *keys, *(f"{model}.{name}" for model, name in metrics), "gain", "teacher_forwards"])
    for entry in run.summary["runs"]:
        values = [((entry.get("models") or {}).get(model) or {"metrics": {}})["metrics"].get(name) for model, name in metrics]
        gain = (entry.get("transfer") or {}).get("gain")
        row = [entry["name"], entry["state"], *(entry["differs"].get(key) for key in keys), *values, gain, entry.get("teacher_forwards")]
        writer.writerow(row)
    return [
        data_uri("summary.json", "application/json", json.dumps(run.summary, indent=2)),
        data_uri("runs.csv", "text/csv", buffer.getvalue()),
    ]
