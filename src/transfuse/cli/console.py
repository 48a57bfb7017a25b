"""The only place that prints: results on stdout; notes, progress and errors on stderr."""

from __future__ import annotations

import math
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

    from transfuse.core.types import Progress

PLAIN_EVERY = 10.0  # seconds between lines of progress where there is no terminal to draw a bar on
UNLIMITED = 10_000  # columns of an output that isn't a screen
_BAR_NEEDS = 45  # columns of a bar without its figures
_BAR = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {remaining}{postfix}"


class Console:
    """A job's reporter on a terminal, or in a log where there is none.

    Args:
        out: where results go; None: stdout.
        err: where notes and progress go; None: stderr.
        clock: seconds, for spacing lines of progress.
    """

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None, clock: Callable[[], float] = time.monotonic):
        self._out, self._err, self._clock = out, err, clock
        self._bar: tqdm[Any] | None = None
        self._training = ""
        self._values: dict[str, float] = {}
        self._last_line = -PLAIN_EVERY
        self._last_word = ""

    @property
    def out(self) -> TextIO:
        return self._out or sys.stdout

    @property
    def err(self) -> TextIO:
        return self._err or sys.stderr

    def say(self, text: str) -> None:
        """A note; goes above a progress bar that is being drawn, below one that is full."""
        if self._last_word or (self._bar is not None and self._bar.n >= (self._bar.total or 0)):
            self.close()
        if self._bar is not None:
            self._bar.clear()
        print(self._folded(text), file=self.err, flush=True)
        if self._bar is not None:
            self._bar.refresh()

    def _folded(self, text: str) -> str:
        """Lines broken between words on a terminal, so that it doesn't break them inside."""
        if not self.err.isatty():
            return text
        fold = textwrap.TextWrapper(_columns() - 1, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)
        return "\n".join(line if len(line) <= fold.width else fold.fill(line) for line in text.split("\n"))

    def write(self, text: str) -> None:
        """A result, on stdout."""
        if self._last_word:
            self.close()
        print(text, file=self.out)

    def progress(self, progress: Progress) -> None:
        """Where a training run stands: a bar on a terminal, else a line now and then."""
        if progress.title != self._training:
            self.close()
            self._training, self._values, self._last_line = progress.title, {}, -PLAIN_EVERY
        self._values.update(progress.values)
        if self.err.isatty():
            self._draw(progress)
            return
        epoch = [] if math.isnan(progress.epoch) else [f"epoch {progress.epoch:.1f}"]
        shown = [f"step {progress.step}/{progress.steps}", *epoch, *_values_shown(self._values)]
        line, now = f"{progress.title}: {', '.join(shown)}", self._clock()
        if progress.step >= progress.steps:
            self._last_word = line  # said when the training is over: the last validation comes after the last loss
        elif now - self._last_line >= PLAIN_EVERY:
            self._last_line = now
            print(line, file=self.err, flush=True)

    def _draw(self, progress: Progress) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=progress.steps, desc=progress.title, file=self.err, dynamic_ncols=True, bar_format=_BAR, leave=True)
        shown = _values_shown(self._values)
        while len(shown) > 1 and len(", ".join(shown)) > _columns() - _BAR_NEEDS:
            shown.pop()
        self._bar.total = progress.steps
        self._bar.set_postfix_str(", ".join(shown), refresh=False)
        self._bar.update(progress.step - self._bar.n)
        if progress.step >= progress.steps:
            self._bar.refresh()  # the last figures, however soon after the ones before

    def close(self) -> None:
        """Ends the bar that is being drawn, or says the last line of a training."""
        if self._last_word:
            print(self._last_word, file=self.err, flush=True)
            self._last_word = ""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def result(self, summary: Mapping[str, Any], path: Path) -> None:
        """A finished run: the table of its models (of its runs, for a job of several), and where the rest is."""
        from transfuse.report import evaluation, fusion, series, table, words

        self.close()
        if evaluation.is_evaluation(summary):
            self.table(evaluation.rows(summary))
            said = evaluation.verdict(summary)
            self.write("\n" + "\n".join([said.sentence, *said.details]))
        else:
            several = series.is_series(summary)
            for part in fusion.tables(summary):
                self.write(f"{part.heading}\n")
                self.table(part.rows)
                self.write("")
            self.table(series.rows(summary) if several else table.rows(summary))
            self.write(f"\n{(series if several else words).verdict(summary).sentence}")
        self.write(f"\nrun folder: {path}\nreport:     {Path(path) / 'report.html'}")

    def table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows with the same keys, the keys as header; the first column is text, the others are figures.

        On a screen that is too narrow for a row, each row is a block of lines.
        """
        if not rows:
            return
        from rich.table import Table
        from rich.text import Text

        cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
        widths = [max(len(row[index]) for row in cells) for index in range(len(rows[0]))]
        heads = list(rows[0])
        if self.out.isatty():
            heads = [_stacked(name, width) for name, width in zip(heads, widths, strict=True)]
        if sum(max(width, _widest(head)) + 2 for width, head in zip(widths, heads, strict=True)) - 2 > self._width():
            for row in cells:
                self.listing(zip(rows[0], row, strict=True))
                self.write("")
            return
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for index, head in enumerate(heads):
            table.add_column(Text(head), justify="left" if index == 0 else "right", no_wrap=True, vertical="bottom")
        for row in cells:
            table.add_row(*map(Text, row))
        self._render(table)

    def listing(self, entries: Iterable[tuple[str, str]], heading: str | None = None) -> None:
        """Names with a line each; the lines are folded beside the names on a screen, and stay one line in a pipe."""
        from rich.table import Table
        from rich.text import Text

        entries = list(entries)
        widest = max((len(name) for name, _ in entries), default=0)
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(overflow="fold", min_width=min(widest, self._width() // 2), no_wrap=widest <= self._width() // 2)
        table.add_column(overflow="fold")
        for name, line in entries:
            table.add_row(Text(name, style="bold"), Text(line))
        if heading:
            self._render(Text(heading, style="bold underline"))
        self._render(table)

    def _width(self) -> int:
        return _columns() if self.out.isatty() else UNLIMITED

    def _render(self, content: Any) -> None:
        """Prints without trailing spaces; colours only on a terminal and without NO_COLOR."""
        from rich.console import Console as RichConsole

        plain = not self.out.isatty() or bool(os.environ.get("NO_COLOR"))
        rich = RichConsole(file=self.out, width=self._width(), no_color=plain, force_terminal=not plain, highlight=False)
        with rich.capture() as captured:
            rich.print(content)
        self.write("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _values_shown(values: Mapping[str, float]) -> list[str]:
    return [f"{name} {value:.3g}" for name, value in values.items()]


def _stacked(name: str, width: int) -> str:
    """A column's header over as many lines as it takes to be no wider than its cells, without breaking a word."""
    return "\n".join(textwrap.wrap(name, max(width, *map(len, name.split()))))


def _widest(text: str) -> int:
    return max(map(len, text.split("\n")))
