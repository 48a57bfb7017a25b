"""What a fusion found, in words and rows, for the page, the card and the console."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transfuse.report import fused_features, merging, words

Summary = Mapping[str, Any]


@dataclass
class Table:
    """One table of a page: what stands above it, and rows with the same keys."""

    heading: str
    note: str
    rows: list[dict[str, str]]


def is_fusion(summary: Summary) -> bool:
    """Whether a summary.json is that of a fusion."""
    return "fusion" in summary


def verdict(summary: Summary) -> words.Verdict:
    """Is what is shipped better than the best single source, and than the plain ensemble of all?"""
    name, found, transfer = summary["primary"]["name"], summary["fusion"], summary["transfer"]
    values = {model: (block.get("metrics") or {}).get(name) for model, block in summary["models"].items()}
    tone, sentence = _against(
        name,
        f"What is shipped ({shipped(summary)})",
        f"the best single source ({found['best_single']})",
        (transfer.get("gain"), transfer.get("gain_interval")),
        (values["student"], values["control"]),
    )
    over = (transfer.get("over_ensemble"), transfer.get("over_ensemble_interval"))
    _, plain = _against(name, "It", "the plain ensemble of all sources", over, (values["student"], values["ensemble"]))
    details = [plain]
    if values.get("joint") is not None:
        details.append(f"The same student from the labels alone reaches {words.title(name)} {words.metric(name, values['joint'])}.")
    right = found["contributions"].get("one_is_right")
    if right is not None:
        details.append(
            f"On {words.share(right)} of the validation samples at least one source is right: choosing among sources can't exceed that."
        )
    reason = (found.get("diagnosis") or {}).get("reason")
    if reason:
        details.append(f"Weights: {' '.join(reason.split())}")
    samples = summary["models"]["student"].get("samples")
    over_samples = f"the {samples:,} test samples" if samples else "the test samples"
    details.append(f"Ways were chosen on validation; intervals cover chance in {over_samples}.")
    return words.Verdict(tone, sentence, details)


def shipped(summary: Summary) -> str:
    """What is shipped, in a few words."""
    chosen = str(summary["fusion"]["chosen"])
    if not summary["fusion"]["distilled"]:
        return chosen
    return "a student distilled from all sources" if chosen == "distill" else f"a student distilled from {chosen}"


def _against(
    name: str, who: str, whom: str, gained: tuple[float | None, list[float] | None], values: tuple[float | None, float | None]
) -> tuple[words.Tone, str]:
    gain, bounds = gained
    both = f"{words.metric(name, values[0])} against {words.metric(name, values[1])}"
    if gain is None or bounds is None:
        return "none", f"{who} reaches {both} of {whom}."
    low, high = bounds
    interval = f"95% interval {words.difference(name, low)} to {words.difference(name, high)}"
    if low > 0:
        return "good", f"{who} beats {whom} by {words.amount(name, gain)} ({interval}): {both}."
    if high < 0:
        return "bad", f"{who} does worse than {whom} by {words.amount(name, -gain)} ({interval}): {both}."
    return "none", f"{who} is within chance of {whom}: {both}, a difference of {words.difference(name, gain)} ({interval})."


def control_is(summary: Summary) -> str:
    """What control, ensemble and joint are, for the sentence that begins with the control."""
    text = f"the best single source on validation, {summary['fusion']['best_single']}; "
    text += "the ensemble is the plain mean of what all sources say, with nothing fitted"
    return text + ("; joint is the student from the labels alone" if "joint" in summary["models"] else "")


def tables(summary: Summary) -> list[Table]:
    """The ways that were tried, and what each source adds; empty for other jobs."""
    if not is_fusion(summary):
        return []
    metric = words.title(summary["fusion"]["chosen_by"])
    note = (
        f"Chosen by {metric} on validation. Rules on outputs with something to fit are cross-fitted there. The step at which a head on "
        "features is kept, and the members of a greedy soup, are chosen on the very validation samples that ways are compared on, so their "
        "figures there are too good by some chance. Test was looked at once, at the end."
    )
    found = [Table("Ways that were tried", note, way_rows(summary))]
    sources = source_rows(summary)
    if sources:
        note = (
            f"In {metric} of the plain ensemble on validation. Left out: what is lost without the source. "
            "Shapley's share: what it adds, averaged over all orders in which sources can join; shares add up to what all reach together."
        )
        found.append(Table("What each source adds", note, sources))
    heard = fused_features.rows(summary)
    if heard:
        note = fused_features.NOTE.format(metric=words.title(summary["primary"]["name"]))
        found.append(Table("What each source is worth to the fused features", note, heard))
    found += [Table(heading, note, rows) for heading, note, rows in merging.tables(summary)]
    return found


def way_rows(summary: Summary) -> list[dict[str, str]]:
    """One row per way, with what it reached and cost, or why it failed."""
    name = summary["fusion"]["chosen_by"]
    found = []
    for way in summary["fusion"]["ways"]:
        taken = way["name"] == summary["fusion"]["chosen"]
        found.append(
            {
                "way": way["name"] + (" (taken)" if taken else ""),
                "validation": "" if way.get("validation") is None else words.metric(name, way["validation"]),
                "test": "" if way.get("test") is None else words.metric(name, way["test"]),
                "size": words.size(way.get("bytes")),
                "latency": words.milliseconds(way.get("latency_ms")),
                "why not": " ".join(str(way.get("why", "")).split()),
            }
        )
    empty = [column for column in found[0] if not any(row[column] for row in found)]
    return [{column: value for column, value in row.items() if column not in empty} for row in found]


def source_rows(summary: Summary) -> list[dict[str, str]]:
    """One row per source: what it adds to the plain ensemble, and its weight where the chosen way has weights."""
    name, found = summary["fusion"]["chosen_by"], summary["fusion"]["contributions"]
    chosen = next((way for way in summary["fusion"]["ways"] if way["name"] == summary["fusion"]["chosen"]), {})
    rows = []
    for source, lost in found["leave_one_out"].items():
        row = {"source": source, "left out": words.difference(name, lost)}
        if "shapley" in found:
            row["Shapley's share"] = words.difference(name, found["shapley"][source])
        if "weights" in chosen:
            row["weight"] = f"{chosen['weights'][source]:.3f}"
        rows.append(row)
    return rows
