"""The page of several runs: one offline file with their table, figures, differences and numbers."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from transfuse.evaluate import corruptions
from transfuse.evaluate.outcomes import ClassOutcomes
from transfuse.report import compare, costs, entry_plots, gallery, perclass, words
from transfuse.report.collect import write_whole
from transfuse.report.compare import Comparison, Group
from transfuse.report.entries import MOST_LOOKS, Entry
from transfuse.report.page import data_uri, script_json, style, template

MARK = 'name="generator" content="transfuse'  # by which a page of ours is known
_FEW_RUNS = 4  # whose recipes stand in columns; more stand in rows
_MOST_KEYS = 14  # columns of a table of recipes
_MOST_CLASSES = 20  # rows of a table of classes
_CONFUSED = 4  # models whose confusions are counted side by side
_MATRICES = 3  # models whose confusions are drawn in full
_MARKS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}  # matplotlib's, as text


def write(found: Comparison, path: str | Path) -> Path:
    """Writes the page.

    Raises:
        RunError: the file can't be written.
    """
    return write_whole(Path(path), render(found, Path(path).parent))


def render(found: Comparison, folder: Path) -> str:
    """The page as text, for a folder from which its links lead. Everything that comes from the runs is escaped."""
    return fill(values(found, folder))


def fill(content: dict[str, Any]) -> str:
    """The template with its values."""
    return template("compare.html.j2").render(**content)


def values(found: Comparison, folder: Path | None = None) -> dict[str, Any]:
    """What the template shows; with links to the runs' reports where the page's own folder is known."""
    count = sum(len(group.entries) for group in found.groups)
    return {
        "style": style(),
        "heading": f"{len(found.runs)} runs compared" if len(found.runs) > 1 else next(iter(found.runs)),
        "about": f"{len(found.runs)} folders, {count} models",
        "notes": found.notes,
        "budget": [],
        "groups": [section(group, folder) for group in found.groups],
        "split_note": "Test split.",
        "recipes": recipes(found),
        "numbers": script_json({label: run.summary for label, run in found.runs.items()}),
        "downloads": [data_uri("models.csv", "text/csv", models_csv(found.groups)), *tests_csv(found.groups)],
        "marks": _MARKS,
        "run": None,
        "environment": [],
    }


def section(group: Group, folder: Path | None = None) -> dict[str, Any]:
    """What the page shows of one group."""
    together = group.together
    pictures = _pictures(together)
    differ, shown = compare.contested(together, pictures)
    return {
        "title": f"{words.title(group.metric).capitalize() if group.metric.islower() else words.title(group.metric)}, {group.task}",
        "sentence": compare.sentence(group),
        "rows": compare.rows(group),
        "looks": [(entry.look if entry.number < MOST_LOOKS else None) for entry in group.entries],
        "links": [None if folder is None else _link(entry, folder) for entry in group.entries],
        "tests": compare.test_rows(group),
        "tested": compare.tested(group),
        "costs": costs.tables({entry.label: entry.block for entry in group.entries}),
        "metrics": None,
        "reasons": [],
        "figures": figures(group.entries),
        "latency_note": latency_note(group.entries),
        "fidelity": [],
        "classes": None,
        "robust": robust_rows(group.entries),
        "severities": ", ".join(str(level) for level in next((e.severities for e in group.entries if e.robustness is not None), [])),
        "robust_note": "Frost is a generated texture; means are not divided by another network's errors.",
        "confusions": confusions(together),
        "matrices": matrices(together),
        "differ": differ,
        "answered": len(together[0].outcomes) if together and together[0].outcomes is not None else 0,
        "together": len(together),
        "contested": shown,
    }


def latency_note(entries: Sequence[Entry]) -> str:
    """How latencies were measured; says so where not all were measured alike."""
    facts = [entry.block["latency_ms"] for entry in entries if entry.latency is not None]
    ways = sorted({words.measured_in(fact) for fact in facts})
    if not ways:
        return ""
    told = "; ".join(ways)
    apart = " They were measured in different ways and can't be compared." if len(ways) > 1 else ""
    return f"Latency: median of single forward passes (batch 1) in {told}, on the machine of each run.{apart}"


def _link(entry: Entry, folder: Path) -> str | None:
    """The way from the page to a run's report: relative, so that both can be moved together, unless no such way leads there."""
    report = (entry.run.path / "report.html").absolute()
    if not report.exists():
        return None
    try:
        return quote(Path(os.path.relpath(report, folder.absolute())).as_posix())
    except ValueError:  # on another drive
        return report.as_uri()


def figures(entries: Sequence[Entry]) -> list[tuple[str, Markup]]:
    """(caption, figure) of those that the entries have the numbers for."""
    title = words.title(entries[0].primary)
    title = title[0].upper() + title[1:]
    found = [
        (f"{title} with 95% intervals", entry_plots.dots(entries) if len(entries) > 1 else None),
        (f"{title} against size; the line joins what no smaller model surpasses", entry_plots.pareto(entries, "bytes")),
        (f"{title} against latency; the line joins what no faster model surpasses", entry_plots.pareto(entries, "latency")),
        ("On the validation split during training", entry_plots.curves(entries)),
        ("Calibration: on the dashed line, confidence comes true", entry_plots.calibration(entries)),
        ("Robustness: mean error over corruptions by severity; 0 is uncorrupted", entry_plots.corrupted(entries)),
    ]
    return [(caption, drawn) for caption, drawn in found if drawn is not None]


def robust_rows(entries: Sequence[Entry]) -> list[dict[str, str]]:
    """The error on each corruption, the mean over severities: a column per model; of many models a row each, with means of families."""
    columns = {entry.label: _robust_column(entry.robustness) for entry in entries if entry.robustness is not None}
    if len(columns) > _FEW_RUNS:
        families = ["none", "mean", *corruptions.FAMILIES]
        return [{"model": label, **{name: words.share(found.get(name)) for name in families}} for label, found in columns.items()]
    kinds = dict.fromkeys(kind for found in columns.values() for kind in found if kind not in corruptions.FAMILIES)
    return [
        {"corruption": kind.replace("_", " "), **{label: words.share(found.get(kind)) for label, found in columns.items()}}
        for kind in kinds
    ]


def _robust_column(robust: Mapping[str, Any]) -> dict[str, float]:
    """A model's mean errors: without corruption ("none"), over all, of each corruption and of each family."""
    means = {kind: sum(values) / len(values) for kind, values in robust["errors"].items() if values}
    found = {"none": robust["clean_error"], "mean": robust["mean_corruption_error"], **means}
    for family, members in corruptions.FAMILIES.items():
        own = [means[kind] for kind in members if kind in means]
        found |= {family: sum(own) / len(own)} if own else {}
    return found


def _pictures(entries: Sequence[Entry]) -> dict[str, np.ndarray]:
    """Sample id -> picture, of all that any of the runs kept."""
    found: dict[str, np.ndarray] = {}
    for run in {entry.run.path: entry.run for entry in entries}.values():
        found = gallery.pictures(run) | found
    return found


def confusions(entries: Sequence[Entry]) -> tuple[list[str], list[tuple[str, str, list[int]]]]:
    """(models, [(true class, taken for, how often by each)]): the commonest confusions of the best few models together."""
    judged = [(entry, entry.outcomes) for entry in entries[:_CONFUSED] if isinstance(entry.outcomes, ClassOutcomes)]
    if not judged:
        return [], []
    names = judged[0][0].run.names(judged[0][1].classes)
    counts: dict[tuple[int, int], list[int]] = {}
    for place, (_, found) in enumerate(judged):
        wrong = found.labels != found.predicted
        for true, said in zip(found.labels[wrong].tolist(), found.predicted[wrong].tolist(), strict=True):
            counts.setdefault((true, said), [0] * len(judged))[place] += 1
    repeated = {pair: values for pair, values in counts.items() if max(values) > 1}  # one mistake is no confusion
    listed = sorted(repeated.items(), key=lambda pair: (-sum(pair[1]), pair[0]))[:15]
    return [entry.label for entry, _ in judged], [(names[true], names[said], values) for (true, said), values in listed]


def matrices(entries: Sequence[Entry]) -> list[tuple[str, list[str], list[list[tuple[int, float]]]]]:
    """(model, class names, rows of (count, share of the row)) of a few models with few classes."""
    found = []
    for entry in entries:
        outcomes = entry.outcomes
        if isinstance(outcomes, ClassOutcomes) and outcomes.classes <= perclass.LARGEST_MATRIX and len(entries) <= _MATRICES:
            found.append((entry.label, entry.run.names(outcomes.classes), perclass.with_shares(perclass.confusion(outcomes))))
    return found


def recipes(found: Comparison) -> dict[str, Any] | None:
    """What differs in the recipes, with runs in columns or in rows; None where nothing can be compared."""
    labels, differences = compare.recipe_differences(found.runs)
    if len(labels) < 2:
        return None
    if len(labels) <= _FEW_RUNS:
        return {"head": ["key", *labels], "rows": [[key, *values] for key, values in differences], "left_out": 0}
    shown = differences[:_MOST_KEYS]
    head = ["run", *(key for key, _ in shown)]
    rows = [[label, *(values[place] for _, values in shown)] for place, label in enumerate(labels)]
    return {"head": head, "rows": rows, "left_out": len(differences) - len(shown)}


def models_csv(groups: Sequence[Group]) -> str:
    """Every metric and cost of every entry: model, job, metric, value, low, high."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["model", "job", "task", "figure", "value", "low", "high"])
    for group in groups:
        for entry in group.entries:
            start, block = [entry.label, entry.run.summary["job"], group.task], entry.block
            for name, value in (block.get("metrics") or {}).items():
                writer.writerow([*start, name, value, *((block.get("intervals") or {}).get(name) or ("", ""))])
            for name in ("parameters", "macs", "bytes"):
                writer.writerow([*start, name, block.get(name), "", ""])
            writer.writerow([*start, "latency_ms", entry.latency, "", ""])
            for kind, errors in (entry.robustness or {}).get("errors", {}).items():
                for severity, error in zip(entry.severities, errors, strict=False):
                    writer.writerow([*start, f"error.{kind}.{severity}", error, "", ""])
    return buffer.getvalue()


def tests_csv(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """The paired tests as a file, where there are any."""
    tests = [test for group in groups for test in group.tests]
    if not tests:
        return []
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["first", "second", "metric", "difference", "low", "high", "only_first_right", "only_second_right", "mcnemar"])
    for test in tests:
        counts = [test.get(key) for key in ("only_first_right", "only_second_right", "mcnemar")]
        writer.writerow([*test["models"], test["metric"], test["difference"], *(test["interval"] or ("", "")), *counts])
    return [data_uri("tests.csv", "text/csv", buffer.getvalue())]
