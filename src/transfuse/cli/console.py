"""The only place that prints: results on stdout; notes, progress and errors on stderr."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

    from transfuse.core.types import Progress

PLAIN_EVERY = 10.0  # seconds between lines of progress where there is no terminal to draw a bar on
UNLIMITED = 10_000  # columns of an output that isn't a screen
_BAR = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {elapsed}<{remaining}{postfix}"


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

    @property
    def out(self) -> TextIO:
        return self._out or sys.stdout

    @property
    def err(self) -> TextIO:
        return self._err or sys.stderr

    def say(self, text: str) -> None:
        """A note; goes above a progress bar that is being drawn."""
        if self._bar is not None:
            self._bar.clear()
        print(text, file=self.err, flush=True)
        if self._bar is not None:
            self._bar.refresh()

    def write(self, text: str) -> None:
        """A result, on stdout."""
        print(text, file=self.out)

    def progress(self, progress: Progress) -> None:
        """Where a training run stands: a bar on a terminal, else a line now and then."""
        if progress.name != self._training:
            self.close()
            self._training, self._values, self._last_line = progress.name, {}, -PLAIN_EVERY
        self._values.update(progress.values)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in self._values.items())
        if self.err.isatty():
            self._draw(progress, shown)
            return
        now = self._clock()
        if now - self._last_line >= PLAIN_EVERY or progress.step >= progress.steps:
            self._last_line = now
            ends = f"step {progress.step}/{progress.steps}, epoch {progress.epoch:.1f}"
            print(f"{progress.name}: {ends}{', ' + shown if shown else ''}", file=self.err, flush=True)

    def _draw(self, progress: Progress, shown: str) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=progress.steps, desc=progress.name, file=self.err, dynamic_ncols=True, bar_format=_BAR, leave=True)
        self._bar.total = progress.steps
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update(progress.step - self._bar.n)
        if progress.step >= progress.steps:
            self.close()

    def close(self) -> None:
        """Ends the bar that is being drawn, if there is one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def result(self, summary: Mapping[str, Any], path: Path) -> None:
        """A finished run: the table of its models, and where the rest is."""
        from transfuse.report.table import rows

        self.close()
        self.table(rows(summary))
        self.write(f"\nrun folder: {path}\nreport:     {Path(path) / 'report.html'}")

    def table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows with the same keys, the keys as header; the first column is text, the others are figures."""
        if not rows:
            return
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for index, name in enumerate(rows[0]):
            table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*("" if value is None else str(value) for value in row.values()))
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
        return shutil.get_terminal_size().columns if self.out.isatty() else UNLIMITED

    def _render(self, content: Any) -> None:
        """Prints without trailing spaces; colours only on a terminal and without NO_COLOR."""
        from rich.console import Console as RichConsole

        plain = not self.out.isatty() or bool(os.environ.get("NO_COLOR"))
        rich = RichConsole(file=self.out, width=self._width(), no_color=plain, force_terminal=not plain, highlight=False)
        with rich.capture() as captured:
            rich.print(content)
        self.write("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))
