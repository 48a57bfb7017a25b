"""Writes docs/objectives.md: what each objective is, needs and costs, and whether it helped the CIFAR pair, from cards and result files.

    python -m benchmarks.objectives_table

Nothing in the page is written by hand but the text in this file; a test holds the committed page equal to what this makes.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import results
from transfuse import objectives
from transfuse.core.card import Card
from transfuse.core.stages import stages_of

PAGE = Path(__file__).parents[1] / "docs" / "objectives.md"
GROUPS = {
    "labels": ("On labels", "The task's own losses. They ask no teacher, and the control has them too."),
    "outputs": ("On outputs", "What the teacher says: its logits. A table of predictions or the cache can stand in for the teacher."),
    "features": (
        "On features",
        "What the teacher computes on the way. It has to be a network. Its features are remembered like its logits where they fit into "
        "`cache.features`, else it runs live. "
        "Taps default to the last feature of each resolution, bridges make shapes agree, are trained with the student and not shipped.",
    ),
    "relations": ("On relations", "How samples, or channels, lie to each other in the deepest tapped feature."),
    "weights": ("On weights", "For fine-tuning: they hold on to what a pretrained student knows."),
    "domains": ("Across domains", "For adaptation from labelled to unlabelled data of another distribution; they need samples of both."),
}
NEEDS = {
    "labels": "labels",
    "hard_labels": "class labels",
    "student.features": "student's features",
    "student.head": "student's last layer",
    "student.start": "trained weights to start from",
    "teacher.logits": "teacher's logits",
    "teacher.logits.dense": "all of the teacher's logits",
    "teacher.features": "teacher's features",
    "teacher.head": "teacher's last layer",
    "teacher.batchnorm": "teacher's BatchNorm",
    "sample_ids": "sample ids",
    "two_views": "two views",
    "domains": "two domains",
    "peers": "peers that learn too",
    "rotations": "turned pictures",
}
ENTRIES = {
    "attention_maps": (
        "{attention_maps: {student_tap: blocks.5.attn.attn_drop, teacher_tap: blocks.11.attn.attn_drop}}",
        "which modules give attention has to be said",
    ),
    "hidden_cosine": ("{hidden_cosine: {tokens: mean}}", "convolutional maps have no first token; transformers need no setting"),
}
"""Smallest recipe entries of objectives whose name alone is not enough, and why."""

HEAD = """# Objectives

<!-- written by `python -m benchmarks.objectives_table`; don't edit -->

An objective is one entry in a recipe's `objectives`, and its smallest entry is its name: `objectives: [cross_entropy, fitnet]`. \
Settings, weight and taps go behind the name: `{{kd: {{weight: 0.9, temperature: 4}}}}`. `transfuse ls objectives` lists them too; every \
formula, with what differs from its paper or its authors' code, stands in its docstring.

{entries}

## How to read the tables

- **level**: whether it gives one value per *sample*, one for the *batch* (it relates samples, so splitting a batch changes it), or one \
for the *parameters*.
- **needs**: what has to be there. A job without it is refused before training.
- **weight**: what `weight: auto` means, the weight that the paper or the usual comparisons give it. It assumes their other terms and \
schedules.
- **time** and **memory**: its own forward and backward pass in percent of the student's bare step, at two sizes: {cifar_unit} / \
{large_unit}, with features of 56x56x256 (`cat_kd` and `simkd` read a network's last features: there the network ends with that stage). \
fp32 on one core; medians of {blocks} blocks. No pass of a network is in these figures. The teacher's forward pass comes on top where \
its answers are not remembered yet, and so does all that **also runs** names. A dash: not measured.
- **also runs**: what a method asks of networks beside the student's own pass over a batch and the teacher's answer about it. The column \
is there where a method of the group asks for something.
- **CIFAR pair**: gain in points of accuracy over the control, with its 95 % interval, in the experiment below. A dash: not run.

## The CIFAR pair

{pair}. {budget}

{found}

What these figures can't say:

- An interval is a paired bootstrap over the {reporting:,} held-back pictures of the reporting half: it says what other pictures would \
change, not what another seed would. {spread} Of {tested} verdicts at 95 %, about {chance} would be other than "no evidence" by chance \
alone.
- {reduction}
- {choice}
- The teacher was trained on all training pictures of CIFAR-10, these among them, so its answers on them are close to the labels.
- Nothing was tuned per method: every term has `weight: auto`, beside cross_entropy with weight 1. A verdict is about this schedule and \
these weights, not about the method at its best.

"""


def wrapped(text: str) -> str:
    """Paragraphs and list items in lines of readable length; tables as they are."""
    lines = []
    for line in text.split("\n"):
        indent = "  " if line.startswith("- ") else ""
        broken = textwrap.wrap(line, 130, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        lines += [line] if line.startswith("|") or not broken else broken
    return "\n".join(lines)


def read(name: str) -> dict[str, Any]:
    """A result file; empty where there is none."""
    path = results.FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def group_of(name: str) -> str:
    """The folder that an objective's file lies in: what carries the knowledge."""
    return objectives.get(name).__module__.split(".")[-2]


def percent(share: float) -> str:
    """A share of the bare step."""
    value = 100 * share
    return "<0.1" if value < 0.05 else f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def cost(measured: Mapping[str, Any] | None, key: str) -> str:
    """Both scales in one cell."""
    if not measured:
        return "–"
    return " / ".join(percent(measured[scale][key]) if scale in measured else "–" for scale in ("cifar", "large"))


def points(value: float) -> str:
    """A share as points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def verdict(name: str, pairs: Mapping[str, Any]) -> str:
    """The cell about the CIFAR pair."""
    row = pairs.get("objectives", {}).get(name)
    if row is None:
        failed = any(key.rpartition("-")[0] == name and "became nan" in error for key, error in pairs.get("failed", {}).items())
        return "diverged" if failed else "–"
    low, high = row["interval"]
    seeds = "" if len(row["seeds"]) == 1 else f", {len(row['seeds'])} seeds"
    return f"{row['verdict']}: {points(row['gain'])} ({points(low)} to {points(high)}{seeds})"


def also_runs(name: str) -> str:
    """The passes of networks that a method adds to a step, in words, from what it needs and declares; empty for most."""
    card, objective = objectives.card(name), objectives.get(name)()
    both = "student and teacher" if card.asks_teachers else "the student"
    found = []
    if "two_views" in card.needs:
        found.append(f"{both} on a second view of every sample")
    if "rotations" in card.needs:
        found.append(f"{both} on three turned copies of every picture, the teacher always live")
    if "peers" in card.needs:
        found.append("every peer's own training step")
    if hasattr(objective, "turns"):
        found.append(f"{len(objective.turns()) - 1} more passes and updates in every step")
    for stage in stages_of(objective):
        if stage.kind == "prepare":
            found.append(f"{100 * stage.share:.3g} % more steps before, in which the teacher answers and the student waits")
    return "; ".join(found)


def line(name: str, costs: Mapping[str, Any], pairs: Mapping[str, Any], with_runs: bool) -> str:
    """One row of a table."""
    card: Card = objectives.card(name)
    measured = costs.get("objectives", {}).get(name)
    needs = ", ".join(NEEDS.get(need, need) for need in card.needs) or "nothing"
    cells = [
        f"`{name}`",
        f"{card.title}: [{card.paper}]({card.link})",
        card.level,
        needs,
        f"{card.paper_weight:g}",
        cost(measured, "time"),
        cost(measured, "memory"),
        *([also_runs(name) or "–"] if with_runs else []),
        verdict(name, pairs),
    ]
    return f"| {' | '.join(cells)} |"


def table(names: Iterable[str], costs: Mapping[str, Any], pairs: Mapping[str, Any]) -> list[str]:
    """The objectives of one group."""
    names = sorted(names)
    with_runs = any(also_runs(name) for name in names)
    head = ["name", "what", "level", "needs", "weight", "time, %", "memory, %", *(["also runs"] if with_runs else []), "CIFAR pair"]
    rule = ["---:" if title in ("weight", "time, %", "memory, %") else "---" for title in head]
    return [f"| {' | '.join(head)} |", f"| {' | '.join(rule)} |", *(line(name, costs, pairs, with_runs) for name in names)]


def entries() -> str:
    """The smallest entries that are more than a name."""
    lines = [f"- `{entry}`: {why}." for name, (entry, why) in ENTRIES.items() if name in objectives.names()]
    return "\n".join(["A name alone is not enough for:", "", *lines])


def sentence_on(pairs: Mapping[str, Any]) -> str:
    """How many help, how many hurt."""
    rows = pairs["objectives"]
    by_verdict = {word: [name for name, row in rows.items() if row["verdict"] == word] for word in ("helps", "no evidence", "hurts")}
    teacher, control = 100 * pairs["teacher"], pairs["control"]
    spread = "" if control["std"] is None else f" ± {100 * control['std']:.1f} over {len(control['seeds'])} seeds"
    parts = [
        f"{word}: {len(names)} ({', '.join(f'`{name}`' for name in sorted(names, key=lambda name: -rows[name]['gain']))})"
        for word, names in by_verdict.items()
        if names
    ]
    said = f"The teacher gets {teacher:.1f} % of the reporting half right, the control {100 * control['mean']:.1f} %{spread}."
    return f"{said} Of {len(rows)} objectives, the largest gain first:\n\n" + "\n".join(f"- {part}." for part in parts)


def head(costs: Mapping[str, Any], pairs: Mapping[str, Any]) -> str:
    """The page's text before the tables."""
    train, augment = pairs["budget"]["train"], pairs["budget"]["augment"]
    optimizer, settings = next(iter(train["optimizer"].items()))
    spread = "Only one seed of the control has run." if pairs["control"]["std"] is None else ""
    if not spread:
        spread = f"The control alone moves by {100 * pairs['control']['std']:.1f} points (standard deviation) from seed to seed."
    return HEAD.format(
        entries=entries(),
        cifar_unit=costs["units"]["cifar"]["step"],
        large_unit=costs["units"]["large"]["step"],
        blocks=costs["blocks"],
        pair=pairs["pair"],
        budget=(
            f"Each objective beside cross_entropy, with one budget for all: {train['epochs']} epochs of {pairs['pictures']['train']:,} "
            f"pictures, batch {train['batch_size']}, {optimizer} at {settings['lr']}, {augment['views']} views (crop "
            f"{augment['crop']}, flip). The control is the same student from labels alone."
        ),
        found=sentence_on(pairs),
        reporting=pairs["pictures"]["reporting"],
        spread=spread,
        tested=len(pairs["objectives"]),
        chance=max(1, round(0.05 * len(pairs["objectives"]))),
        reduction=pairs["reduction"],
        choice=pairs["choice"],
    )


def unfinished(keys: Iterable[str]) -> str:
    """Runs by seed: what has not been run once, and what lacks further seeds."""
    by_seed: dict[str, list[str]] = {}
    for key in keys:
        name, _, seed = key.rpartition("-")
        by_seed.setdefault(seed, []).append(f"`{name}`")
    return "; ".join(f"seed {seed} of {', '.join(sorted(names))}" for seed, names in sorted(by_seed.items()))


def footnotes(costs: Mapping[str, Any], pairs: Mapping[str, Any]) -> list[str]:
    """What was not run, by reason; what failed; ours against the broadcast formulation."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in pairs["not_run"].items():
        by_reason.setdefault(reason, []).append(f"`{name}`")
    lines = ["## Not run on the CIFAR pair", ""]
    lines += [f"- {', '.join(sorted(names))}: {reason}." for reason, names in sorted(by_reason.items(), key=lambda entry: entry[1])]
    noted = {name: row["note"] for name, row in pairs["objectives"].items() if "note" in row}
    if noted:
        lines += ["", "Run with something to know about it: " + "; ".join(f"`{name}` ({note})" for name, note in noted.items()) + "."]
    if pairs["pending"]:
        lines += ["", f"Not finished when this was written: {unfinished(pairs['pending'])}."]
    lines += [
        "",
        "## Against the obvious formulation",
        "",
        "Pairing everything with everything by broadcasting, as many repositories do (`benchmarks/broadcast.py`), on the same numbers:",
        "",
        "| | times faster | times leaner | MB, ours | MB, broadcast |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for label, row in costs["against_broadcast"].items():
        ours, theirs = row["megabytes"]
        lines.append(f"| {label} | {row['times_faster']:g} | {row['times_leaner']:g} | {ours:g} | {theirs:g} |")
    commands = "`python -m benchmarks.objectives` and `python -m benchmarks.cifar_pairs run`"
    return [*lines, "", f"Figures: {commands}; hardware, versions and commits stand in `benchmarks/results/`."]


def page() -> str:
    """The whole of docs/objectives.md."""
    costs, pairs = read("objectives"), read("cifar_pairs")
    by_group: dict[str, list[str]] = {}
    for name in objectives.names():
        by_group.setdefault(group_of(name), []).append(name)
    parts = [wrapped(head(costs, pairs))]
    for group, names in sorted(by_group.items(), key=lambda entry: list(GROUPS).index(entry[0])):
        title, text = GROUPS[group]
        parts.append("\n".join([f"## {title}", "", wrapped(text), "", *table(names, costs, pairs), "", ""]))
    return "".join(parts) + wrapped("\n".join(footnotes(costs, pairs)) + "\n")


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
