"""report.html of an evaluation: the page of compared runs with what only an evaluation has."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfuse.report import budget, compare_page, evaluation, table
from transfuse.report.collect import write_whole
from transfuse.report.compare import compare
from transfuse.report.page import data_uri, environment_lines

_PARTS = {"all": "All labelled samples.", "test": "Test split.", "val": "Validation split.", "train": "Training split."}


def write(path: str | Path) -> Path:
    """Writes report.html into the folder of an evaluation, from what the folder holds.

    Raises:
        RunError: the folder holds no finished evaluation, or can't be written.
    """
    return write_whole(Path(path) / "report.html", render(path))


def render(path: str | Path) -> str:
    """The page as text. Everything that comes from the folder is escaped."""
    found = compare([path], teachers=True)
    run = next(iter(found.runs.values()))
    summary = run.summary
    values = compare_page.values(found)  # without links: there is no page but this one
    values["heading"] = f"Evaluation on {(summary.get('data') or {}).get('source', run.path.name)}"
    said = evaluation.verdict(summary)
    values["about"] = " · ".join(filter(None, [run.path.name, str(run.environment.get("started") or "")]))
    group = values["groups"][0]
    group["sentence"], values["notes"] = said.sentence, said.details
    group["fidelity"] = evaluation.fidelity_sections(summary)
    group["classes"] = evaluation.class_rows(summary)
    group["metrics"] = table.all_metrics({**summary["models"], **summary["teachers"]})
    group["reasons"] = table.reasons({**summary["models"], **summary["teachers"]})
    group["robust_note"] = robust_note(summary)
    values["budget"] = budget.lines(summary, run.recipe)
    values["run"], values["environment"] = run, environment_lines(run.environment)
    values["recipes"] = None
    values["split_note"] = _PARTS.get(str((summary.get("data") or {}).get("part")), "")
    values["downloads"] = [
        data_uri("summary.json", "application/json", json.dumps(summary, indent=2)),
        *values["downloads"],
        *_classes_csv(summary),
    ]
    return compare_page.fill(values)


def robust_note(summary: Mapping[str, Any]) -> str:
    """What was corrupted and by which definition."""
    found = summary.get("robustness")
    if not found:
        return ""
    return (
        f"{found.get('samples', 0):,} pictures, {found.get('definition', '')}; the mean is not divided by another network's errors. "
        "Frost is a generated texture."
    )


def _classes_csv(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [(model, row) for model, block in summary["models"].items() for row in block.get("per_class") or []]
    if not rows:
        return []
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    keys = ("class", "samples", "precision", "recall", "f1", "auroc")
    writer.writerow(["model", *keys])
    for model, row in rows:
        writer.writerow([model, *(row.get(key) for key in keys)])
    return [data_uri("classes.csv", "text/csv", buffer.getvalue())]
