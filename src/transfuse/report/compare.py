"""Runs side by side, in words and rows: which can be compared, what differs in their recipes, and who answers what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from transfuse.evaluate.outcomes import ClassOutcomes
from transfuse.evaluate.paired import paired_tests
from transfuse.report import budget, words
from transfuse.report.collect import RunFiles
from transfuse.report.entries import Entry, entries_of, labels_of, numbered, read_run
from transfuse.report.gallery import data_uri

_NOT_COMPARED = ("out", "recipe", "cache.dir", "cache.max_bytes")  # keys that say where something is kept, not what was done
_LONGEST = 60  # characters of a recipe's value in a table


@dataclass
class Group:
    """Entries whose primary metric is the same one on the same task, the best first.

    Attributes:
        task, metric: of all of them.
        entries: numbered.
        tests: the best entry against each other one that answered the same samples.
        samples: how many different sets of test samples there are.
    """

    task: str
    metric: str
    entries: list[Entry]
    tests: list[dict[str, Any]] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return len({entry.tested_on for entry in self.entries if entry.tested_on is not None})

    @property
    def together(self) -> list[Entry]:
        """The entries that answered the same samples as the best of those whose answers are there."""
        first = next((entry.tested_on for entry in self.entries if entry.outcomes is not None), None)
        return [entry for entry in self.entries if first is not None and entry.tested_on == first and entry.outcomes is not None]


@dataclass
class Comparison:
    """All that a page of runs shows.

    Attributes:
        runs: what each folder holds, by its label.
        groups: of entries that belong in one table; the largest first.
        notes: what keeps runs from being compared, in sentences.
    """

    runs: dict[str, RunFiles]
    groups: list[Group]
    notes: list[str]


def compare(paths: Sequence[str | Path], teachers: bool = False) -> Comparison:
    """Reads run folders and sorts what they hold.

    Args:
        paths: folders of runs, evaluations or jobs of several runs; a folder that is named twice counts once.
        teachers: whether their teachers get rows of their own.

    Raises:
        RunError: a folder holds no finished run, or its summary.json was damaged; names the file.
    """
    folders = list({path.resolve(): path for path in map(Path, reversed(paths))}.values())[::-1]
    runs = {label: read_run(path) for label, path in zip(labels_of(folders), folders, strict=True)}
    alone = len(runs) == 1
    entries = [entry for label, run in runs.items() for entry in entries_of(run, "" if alone else label, teachers)]
    found: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        found.setdefault((entry.task, entry.primary), []).append(entry)
    groups = [Group(task, metric, numbered(members)) for (task, metric), members in found.items()]
    groups.sort(key=lambda group: -len(group.entries))
    for group in groups:
        group.tests = tests_of(group.together)
    return Comparison(runs, groups, _notes(runs, groups))


def tests_of(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The best entry against every other one on the same samples."""
    found = {entry.label: entry.outcomes for entry in entries if entry.outcomes is not None}
    if len(found) < 2:
        return []
    return paired_tests(entries[0].task, found, against=next(iter(found)))  # pyright: ignore[reportArgumentType]


def _notes(runs: Mapping[str, RunFiles], groups: Sequence[Group]) -> list[str]:
    found = []
    if len(groups) > 1:
        kinds = "; ".join(f"{words.title(group.metric)} ({group.task}): {_listed([e.label for e in group.entries])}" for group in groups)
        found.append(f"These runs don't measure the same: {kinds}. They stand in tables of their own.")
    for group in groups:
        if group.samples > 1:
            sets: dict[str, list[str]] = {}
            for entry in group.entries:
                if entry.tested_on is not None:
                    sets.setdefault(entry.tested_on, []).append(entry.label)
            listed = "; ".join(_listed(labels) for labels in sets.values())
            found.append(f"Not all were tested on the same samples ({listed}): figures of different sets can't be subtracted.")
    empty = [label for label, run in runs.items() if not entries_of(run, label)]
    if empty:
        found.append(f"{_listed(empty)}: the summary names no model, so there is no figure to show.")
    jobs = sorted({str(run.summary["job"]) for run in runs.values()})
    if len(jobs) > 1:
        found.append(f"The jobs differ: {', '.join(jobs)}.")
    gaps: dict[str, list[str]] = {}
    for label, run in runs.items():
        for gap in run.gaps:
            gaps.setdefault(gap.rstrip("."), []).append(label)
    missing = [f"{gap} ({len(who)} runs: {_listed(who, 3)})." if len(who) > 1 else f"{who[0]}: {gap}." for gap, who in gaps.items()]
    return found + missing[:20] + ([f"{len(missing) - 20} more files are missing."] if len(missing) > 20 else [])


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def sentence(group: Group) -> str:
    """Which is best, and whether that is more than chance."""
    name, valued = group.metric, [entry for entry in group.entries if entry.value is not None]
    if not valued:
        return f"No run has a value for {words.title(name)}."
    best = valued[0]
    reached = f"{best.label} reaches the best {words.title(name)}, {words.metric(name, best.value)}"
    bounds = words.interval(name, best.interval)
    reached += f" (95% interval {bounds})" if bounds else ""
    if len(valued) == 1:
        return f"{best.label}: {words.title(name)} {words.metric(name, best.value)}{f', 95% interval {bounds}' if bounds else ''}."
    if group.tests and group.tests[0]["models"][0] != best.label:
        return f"{reached}; its answers to single samples are not at hand, so what lies within chance of it can't be said."
    tied = [test["models"][1] for test in group.tests if test["interval"] and test["interval"][0] <= 0 <= test["interval"][1]]
    if group.tests and not tied:
        return f"{reached}; no other that answered the same samples is within chance of it."
    if tied:
        return f"{reached}; {_listed(tied, 3)} {'is' if len(tied) == 1 else 'are'} within chance of it on these samples."
    return f"{reached}."


def rows(group: Group) -> list[dict[str, str]]:
    """One row per entry; keys are the column headers in order, values are ready to show. Columns without any value are left out."""
    name = group.metric
    found = []
    for entry in group.entries:
        summary, block = entry.run.summary, entry.block
        transfer = (summary.get("transfer") or {}) if entry.model == "student" else {}
        robust = entry.robustness or {}
        metrics = block.get("metrics") or {}
        found.append(
            {
                "model": entry.label,
                "job": str(summary["job"]),
                words.title(name): words.metric(name, entry.value),
                "95% interval": words.interval(name, entry.interval),
                "gain over control": "" if transfer.get("gain") is None else words.difference(name, transfer["gain"]),
                "ECE": "" if metrics.get("ece") is None else words.metric("ece", metrics["ece"]),
                "corruption error": words.share(robust.get("mean_corruption_error")),
                "parameters": words.count(block.get("parameters")),
                "size": words.size(block.get("bytes")),
                "MACs": words.quantity(block.get("macs")),
                "latency": words.milliseconds(entry.latency),
                "agreement": words.share(transfer.get("agreement")),
                "budget": budget.cell(summary, entry.run.recipe) if entry.main else "",
            }
        )
    same_job = len({row["job"] for row in found}) == 1
    empty = [column for column in found[0] if not any(row[column] for row in found) or (column == "job" and same_job)]
    return [{column: value for column, value in row.items() if column not in empty} for row in found]


def tested(group: Group) -> str | None:
    """Against whom the tests are, where that is not the best of all: one whose answers to single samples are at hand."""
    first = group.tests[0]["models"][0] if group.tests else None
    return None if first is None or first == group.entries[0].label else first


def test_rows(group: Group) -> list[dict[str, str]]:
    """The paired tests, ready to show: the difference is the other model's figure minus the best one's."""
    found = []
    for test in group.tests:
        apart = "" if test["difference"] is None else words.difference(group.metric, test["difference"])
        counted = "mcnemar" in test
        found.append(
            {
                "model": test["models"][1],
                ("difference to best" if tested(group) is None else "difference"): apart,
                "95% interval": " to ".join(words.difference(group.metric, bound) for bound in test["interval"] or ()),
                "only it right": str(test["only_second_right"]) if counted else "",
                "only the best right": str(test["only_first_right"]) if counted else "",
                "McNemar p": f"{test['mcnemar']:.2g}" if counted else "",
            }
        )
    empty = [column for column in (found[0] if found else {}) if not any(row[column] for row in found)]
    return [{column: value for column, value in row.items() if column not in empty} for row in found]


def recipe_differences(runs: Mapping[str, RunFiles]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """(labels of the runs that have a recipe, [(key, its value in each)]) for the keys in which the resolved recipes differ."""
    flat = {label: flattened(run.recipe) for label, run in runs.items() if run.recipe}
    keys = list(dict.fromkeys(key for values in flat.values() for key in values))
    found = []
    for key in keys:
        values = [shown(values[key]) if key in values else "" for values in flat.values()]
        if len(set(values)) > 1 and not key.startswith(_NOT_COMPARED):
            found.append((key, values))
    return list(flat), found


def flattened(value: Any, key: str = "") -> dict[str, Any]:
    """Nested values by dotted key; list entries that are named blocks go by their names (objectives.kd.temperature)."""
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for name, entry in value.items():
            found |= flattened(entry, f"{key}.{name}" if key else str(name))
        return found or {key: {}}
    named = isinstance(value, list) and all(isinstance(entry, (dict, str)) for entry in value)
    if named and any(isinstance(entry, dict) for entry in value):
        blocks: dict[str, Any] = {}
        for entry in value:
            blocks |= {entry: "as it is"} if isinstance(entry, str) else entry
        return flattened(blocks, key)
    return {key: value}


def shown(value: Any) -> str:
    """A recipe's value in a table's cell."""
    text = value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


@dataclass
class Contested:
    """A sample on which models differ.

    Attributes:
        sample: its id.
        label: what it is.
        said: (what is said, by how many models, whether it is right), the commonest first.
        picture: data URI or None.
        by: model -> what it says, where there are few models.
    """

    sample: str
    label: str
    said: list[tuple[str, int, bool]]
    picture: str | None
    by: dict[str, str]


def contested(entries: Sequence[Entry], pictures: Mapping[str, np.ndarray], most: int = 12, named: int = 4) -> tuple[int, list[Contested]]:
    """How many samples the models answer differently, and those on which they differ most; samples with pictures first.

    Args:
        entries: classifiers on the same samples.
        pictures: sample id -> raw picture, of those that were kept.
        most: how many samples are shown.
        named: up to so many models each model's answer is kept.
    """
    found = [entry.outcomes for entry in entries]
    answered = [one for one in found if isinstance(one, ClassOutcomes)]
    if len(answered) < 2 or entries[0].answers is None:
        return 0, []
    labels = answered[0].labels
    known = entries[0].answers.labels >= 0
    ids = [str(name) for name in entries[0].answers.ids[known]]
    said = np.stack([one.predicted for one in answered])
    differ = np.flatnonzero((said != said[0]).any(0))
    names = entries[0].run.names(answered[0].classes)
    shares = {int(i): np.unique(said[:, i], return_counts=True) for i in differ}

    def order(i: int) -> tuple[bool, float, int]:
        return ids[i] not in pictures, float(max(shares[i][1])) / len(said), i

    chosen = sorted(shares, key=order)
    if pictures:
        chosen = [i for i in chosen if ids[i] in pictures] or chosen
    listed = []
    for i in chosen[:most]:
        votes = sorted(zip(*shares[i], strict=True), key=lambda pair: -pair[1])
        words_said = [(names[int(number)], int(count), int(number) == int(labels[i])) for number, count in votes]
        by = {entry.label: names[int(said[row, i])] for row, entry in enumerate(entries)} if len(entries) <= named else {}
        picture = data_uri(pictures[ids[i]]) if ids[i] in pictures else None
        listed.append(Contested(ids[i], names[int(labels[i])], words_said, picture, by))
    return len(differ), listed
