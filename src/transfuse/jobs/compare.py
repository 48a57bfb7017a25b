"""transfuse compare and transfuse report: pages made from what run folders hold; nothing is trained or asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from transfuse.errors import RunError
from transfuse.report import card, compare_page, evaluation, evaluation_page, page, series, series_card, series_page
from transfuse.report import compare as comparing
from transfuse.report.collect import collect_frame


def compare(runs: Sequence[str | Path], out: str | Path | None = None, teachers: bool = False) -> tuple[comparing.Comparison, Path]:
    """Writes the page of several runs.

    Args:
        runs: folders of runs, evaluations or jobs of several runs.
        out: the page; None: runs/compare-DATE-TIME.html. A file that is there is replaced only where it is such a page.
        teachers: rows for the runs' teachers, too.

    Returns:
        What was found, and where the page is.

    Raises:
        RunError: no runs, a folder that holds no finished run, a damaged file, or a page that can't be written; names the file.
    """
    if not runs:
        raise RunError("no runs to compare", fix="name their folders: transfuse compare runs/a runs/b")
    path = Path(out) if out is not None else Path(f"runs/compare-{datetime.now():%Y%m%d-%H%M%S}.html")
    if path.suffix != ".html":
        raise RunError("a page is written as .html", where=str(path), fix=f"--out {path.with_suffix('.html')}")
    try:
        foreign = path.exists() and compare_page.MARK not in path.read_text(encoding="utf-8", errors="replace")[:1000]
    except OSError as error:  # a folder of that name, among others
        raise RunError(f"can't be replaced: {error.strerror or error}", where=str(path), fix="choose another name with --out") from error
    if foreign:
        raise RunError("exists and is no page of transfuse's", where=str(path), fix="choose another name with --out")
    found = comparing.compare(runs, teachers)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"can't be made: {error.strerror or error}", where=str(path.parent), fix="choose another place with --out"
        ) from error
    return found, compare_page.write(found, path)


def rewrite(run: str | Path) -> list[Path]:
    """Writes report.html and README.md of a finished run anew, from what its folder holds.

    Returns:
        What was written.

    Raises:
        RunError: the folder holds no finished run, or its summary.json was damaged.
    """
    return [write(run) for write in _writers(collect_frame(run).summary).values()]


def drawn(run: str | Path) -> bool:
    """Whether a finished run has all of its pages.

    Raises:
        RunError: as `rewrite`.
    """
    return all((Path(run) / name).exists() for name in _writers(collect_frame(run).summary))


def _writers(summary: Mapping[str, Any]) -> dict[str, Callable[[str | Path], Path]]:
    """The pages of a run with this summary by their names, each with what writes it."""
    if evaluation.is_evaluation(summary):
        return {"report.html": evaluation_page.write}
    if series.is_series(summary):
        return {"report.html": series_page.write, "README.md": series_card.write}
    return {"report.html": page.write, "README.md": card.write}
