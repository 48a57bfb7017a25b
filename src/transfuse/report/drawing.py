"""Figures as inline SVG that follow the page's colours in light and dark, and stay readable on a phone."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from transfuse.report.words import quantity

# Stand-ins that matplotlib writes and the page's variables replace; no figure has another colour.
_VARIABLES = {
    "#010101": "ink",
    "#020202": "muted",
    "#030303": "line",
    "#040404": "student",
    "#050505": "control",
    "#060606": "teacher",
    "#070707": "extra-1",
    "#080808": "extra-2",
    "#090909": "extra-3",
    "#0a0a0a": "extra-4",
    "#0b0b0b": "peer",
}
_BY_NAME = {name: colour for colour, name in _VARIABLES.items()}
EXTRAS = ["extra-1", "extra-2", "extra-3", "extra-4"]
MARKERS = {"student": "o", "control": "s", "teacher": "^", "peer": "D"}
_LEGEND, _HANDLE = 72, 6  # characters beside each other in a legend, and those that a line's picture takes
_WIDTH = 4.6  # inches: 442 CSS pixels, so that a phone shrinks the text only a little
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "transfuse",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "text.parse_math": False,  # a class may be called "$5"
}


def colour(name: str) -> str:
    """The stand-in for one of the page's colours: ink, muted, line, student, control, teacher, peer, extra-1 to extra-4."""
    return _BY_NAME[name]


def role(model: str) -> str:
    """Which of the four colours a model of the table has."""
    return model if model in ("student", "control") else "peer" if model.startswith("peer ") else "teacher"


def figure(height: float = 3.0, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure of one or several panels side by side, in the page's colours."""
    with matplotlib.rc_context(_SETTINGS):
        drawn = Figure(figsize=(_WIDTH, height), layout="constrained")
        panels = [drawn.add_subplot(1, columns, number + 1) for number in range(columns)]
    for axes in panels:
        axes.patch.set_alpha(0)
        axes.grid(True, color=colour("line"), linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", colors=colour("muted"), labelcolor=colour("ink"), labelsize=8.5)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(colour("muted"))
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(colour("ink"))
    drawn.patch.set_alpha(0)
    return drawn, panels


def legend(axes: Axes) -> None:
    """Names of the lines above the figure: inside it they would lie on bars and lines that matplotlib doesn't look out for."""
    drawn: Any = axes.figure
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        longest = max(map(len, labels)) + _HANDLE
        columns = max(1, min(len(labels), _LEGEND // longest))
        look: dict[str, Any] = {"labelcolor": colour("ink"), "handlelength": 2.2, "columnspacing": 1.4, "frameon": False, "fontsize": 8.5}
        drawn.legend(handles, labels, loc="outside upper center", ncols=columns, **look)


def plain_numbers(axis: Axis, decades: float) -> None:
    """1k, 10k, 1M on a logarithmic axis, in place of powers of ten; 2k and 5k too where it spans few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,), numticks=10))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, position: quantity(value)))


def svg(drawn: Figure, description: str) -> Markup:
    """The figure as an inline <svg> element with a description for those who can't see it."""
    FigureCanvasSVG(drawn)
    buffer = io.StringIO()
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # it measures text in its own font; the browser draws it in the page's
        drawn.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")), transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var(--{variable})")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    box = re.search(r'viewBox="[^"]*"', text)
    head = f'<svg class="figure" {box[0] if box else ""} role="img" aria-label="{escape(description)}">'
    text = head + text[text.index(">") + 1 :]
    text = text.replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", text)  # the family is the page's own
    return Markup(text)


def clipped(names: Sequence[str], length: int = 22) -> list[str]:
    """Names short enough for an axis; what is left out is in their middle, since the ends tell runs apart."""
    tail = (length - 1) // 2
    return [name if len(name) <= length else f"{name[: length - 1 - tail]}…{name[-tail:]}" for name in names]
