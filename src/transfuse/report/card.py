"""README.md of a run: the model card of its student, short enough to be read."""

from __future__ import annotations

import re
from pathlib import Path

from transfuse.report import asked, budget, exports, fusion, hub, loading, table, words
from transfuse.report.collect import RunFiles, collect, write_whole


def write(run_path: str | Path) -> Path:
    """Writes README.md into a finished run's folder.

    Raises:
        RunError: the folder holds no finished run, or can't be written.
    """
    return write_whole(Path(run_path) / "README.md", render(collect(run_path)))


def render(run: RunFiles, repository: str | None = None) -> str:
    """The card as Markdown below the metadata that hubs read; what comes from the run can't format it.

    Args:
        run: the folder's content.
        repository: where on a hub the student can be had; None: it lies in the run's folder.
    """
    summary = run.summary
    found = words.verdict(summary)
    student = run.recipe.get("student") or {"source": run.student.get("source", "student")}
    parts = [f"# {plain(asked.model(student))}", plain(found.sentence), *map(plain, found.details)]
    parts += [plain(line) for _, line in budget.lines(summary, run.recipe)]
    parts.append(markdown_table(table.rows(summary)))
    control = f" The control is {words.control_is(summary)}." if "control" in summary["models"] else ""
    parts.append(f"Test split.{control} {table.latency_note(summary)}".strip())
    for part in [*fusion.tables(summary), *exports.tables(run.path)]:
        parts += [f"## {part.heading}", plain(part.note), markdown_table(part.rows)]
    facts = [f"- {what}: {plain(answer)}" for what, answer in asked.lines(run.recipe)]
    facts += [
        f"- Objective: {plain(term.title)}{f' ({plain(term.settings)})' if term.settings else ''}" for term in asked.terms(run.recipe)
    ]
    count = len(run.student.get("classes") or [])
    if 0 < count <= 20:
        facts.append(f"- Classes: {plain(', '.join(map(str, run.student['classes'])))}")
    elif count:
        facts.append(f"- Classes: {count}, named in student.json")
    parts += ["## How it was made", "\n".join(facts)] if facts else []
    parts += ["## How to use it", f"```python\n{loading.python(run.path, run.student, repository)}```"]
    parts += ["## Said during the run", "\n".join(f"- {plain(note)}" for note in run.notes)] if run.notes else []
    parts.append("The whole story is in report.html, the numbers in summary.json, what it takes to repeat it in recipe.resolved.yaml.")
    return hub.front_matter(run) + "\n" + "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Text on one line that Markdown and HTML leave as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Rows with the same keys as a table; the first column is text, the others are figures."""
    head = [plain(column) for column in rows[0]]
    lines = [" | ".join(head), " | ".join(["---", *["---:"] * (len(head) - 1)])]
    lines += [" | ".join(plain(value) for value in row.values()) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)
