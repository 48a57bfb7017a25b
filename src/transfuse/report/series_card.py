"""README.md of a job of several runs: its finding and its tables, short enough to be read."""

from __future__ import annotations

from pathlib import Path

from transfuse.report import asked, budget, card, exports, hub, series
from transfuse.report.collect import RunFiles, collect_frame, write_whole


def write(path: str | Path) -> Path:
    """Writes README.md into the finished parent folder.

    Raises:
        RunError: the folder holds no finished job, or can't be written.
    """
    return write_whole(Path(path) / "README.md", render(collect_frame(path)))


def render(run: RunFiles) -> str:
    """The card as Markdown; what comes from the runs can't format it."""
    summary = run.summary
    found = series.verdict(summary)
    parts = [f"# {card.plain(series.heading(summary, run.recipe))}", card.plain(found.sentence), *map(card.plain, found.details)]
    parts += [card.plain(line) for _, line in budget.lines(summary, run.recipe)]
    if models := series.model_rows(summary):
        parts.append(card.markdown_table(models))
    for part in exports.tables(run.path):
        parts += [f"## {part.heading}", card.plain(part.note), card.markdown_table(part.rows)]
    parts += ["## Runs", card.markdown_table(series.rows(summary)), *map(card.plain, series.notes(summary))]
    if spreads := series.spread_rows(summary)[0]:
        parts += ["## Over the runs", card.markdown_table(spreads)]
    facts = [f"- {what}: {card.plain(answer)}" for what, answer in asked.lines(run.recipe)]
    facts += [
        f"- Objective: {card.plain(term.title)}{f' ({card.plain(term.settings)})' if term.settings else ''}"
        for term in asked.terms(run.recipe)
    ]
    parts += ["## How it was made", "\n".join(facts)] if facts else []
    parts.append("Each run is an ordinary run folder with a report of its own. The numbers are in summary.json.")
    return hub.front_matter(run) + "\n" + "\n\n".join(parts) + "\n"
