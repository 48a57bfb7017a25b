"""The flow of a job as a drawing, from its recipe: what knowledge comes from, the terms that carry it, and the network that learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from markupsafe import Markup

from transfuse import objectives
from transfuse.errors import TransfuseError
from transfuse.report import together

_WIDTH, _BOX, _GAP, _ROOM = 460, 44, 10, 34  # of the drawing, a box, between boxes, for arrows
_PER_LINE = 3
_MOST = 6  # boxes of a row; more are counted
_LETTER = 6.1  # width of a letter of 11 pixels, on average


@dataclass
class Box:
    """One thing of the flow.

    Attributes:
        kind: what it is: data, teacher, objective, student ...
        text: which one.
        colour: one of the page's variables.
        feeds: positions in the next row that it has an arrow to.
        dashed: it isn't part of what is trained and shipped.
    """

    kind: str
    text: str
    colour: str = "muted"
    feeds: Sequence[int] = ()
    dashed: bool = False


def draw(recipe: Mapping[str, Any]) -> Markup | None:
    """The drawing as inline SVG; None where the recipe doesn't say enough."""
    rows = [row for row in rows_of(recipe) if row]
    if len(rows) < 2:
        return None
    parts: list[str] = []
    places: list[list[tuple[float, float, float]]] = []  # per row and box: centre, top, bottom
    top = 4.0
    for row in rows:
        found: list[tuple[float, float, float]] = []
        for start in range(0, len(row), _PER_LINE):
            line = row[start : start + _PER_LINE]
            width = min(220.0, (_WIDTH - 8 - _GAP * (len(line) - 1)) / len(line))
            left = (_WIDTH - width * len(line) - _GAP * (len(line) - 1)) / 2
            for number, box in enumerate(line):
                x = left + number * (width + _GAP)
                parts.append(_box(box, x, top, width))
                found.append((x + width / 2, top, top + _BOX))
            top += _BOX + _GAP
        places.append(found)
        top += _ROOM - _GAP
    height = top - _ROOM + 4
    arrows = [
        _arrow(places[number][place], places[number + 1][target], max(bottom for _, _, bottom in places[number]))
        for number, row in enumerate(rows[:-1])
        for place, box in enumerate(row)
        for target in box.feeds
        if target < len(places[number + 1])
    ]
    described = "; then ".join(", ".join(f"{box.kind} {box.text}" for box in row) for row in rows)
    head = f'<svg class="figure flow" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="Flow: {escape(described)}">'
    return Markup(head + "".join(arrows) + "".join(parts) + "</svg>")


def _box(box: Box, x: float, y: float, width: float) -> str:
    dash = ' stroke-dasharray="4 3"' if box.dashed else ""
    frame = (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_BOX}" rx="6" '
        f'style="fill:var(--panel);stroke:var(--{box.colour})" stroke-width="1.5"{dash}/>'
    )
    most = int((width - 14) / _LETTER)
    lines = [(17, 600, "ink", _short(box.kind, most)), (33, 400, "muted", _short(box.text, most))]
    words = "".join(
        f'<text x="{x + width / 2:.1f}" y="{y + down:.1f}" text-anchor="middle" font-size="11" font-weight="{weight}" '
        f'style="fill:var(--{shade})">{escape(text)}</text>'
        for down, weight, shade, text in lines
    )
    return f"<g><title>{escape(f'{box.kind}: {box.text}')}</title>{frame}{words}</g>"


def _short(text: str, most: int) -> str:
    """The end of a long path says more than its beginning."""
    if len(text) <= most:
        return text
    return "…" + text[-(most - 1) :] if "/" in text else text[: most - 1] + "…"


def _arrow(start: tuple[float, float, float], end: tuple[float, float, float], floor: float) -> str:
    """From below a box down to the next row; it begins below the row's last line, so that it crosses no other box."""
    (x1, _, bottom), (x2, y2, _) = start, end
    y1 = max(bottom, floor) if bottom < floor else bottom
    bend = (y2 - y1) / 2
    path = f"M{x1:.1f} {bottom:.1f} V{y1:.1f} C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2 - 5:.1f}"
    tip = f"M{x2 - 3.5:.1f} {y2 - 6:.1f} L{x2:.1f} {y2 - 0.5:.1f} L{x2 + 3.5:.1f} {y2 - 6:.1f} Z"
    return f'<path d="{path}" style="fill:none;stroke:var(--muted)" stroke-width="1.2"/><path d="{tip}" style="fill:var(--muted)"/>'


def rows_of(recipe: Mapping[str, Any]) -> list[list[Box]]:
    """Sources, what carries their knowledge, and the network that learns, as rows of boxes."""
    sources = _sources(recipe)
    carriers = _terms(recipe) or _ways(recipe)
    learner = _learner(recipe)
    if not sources or not learner:
        return []
    if not carriers:
        for box in sources:
            box.feeds = [0]
        return [sources, learner]
    for box in sources:
        if not box.feeds:
            box.feeds = [place for place, term in enumerate(carriers) if _listens(term, box)]
    for term in carriers:
        term.box.feeds = [0]
    return [_few(sources), _few([term.box for term in carriers]), learner]


@dataclass
class _Carrier:
    """A term of the loss, or a way to fuse, with whom it listens to."""

    box: Box
    from_data: bool
    teachers: Sequence[str] | None = None  # None: all
    from_target: bool = True


def _listens(term: _Carrier, source: Box) -> bool:
    if source.kind == "target domain":
        return term.from_target
    if source.kind in ("data", "source domain"):
        return term.from_data
    name = source.kind.partition(" ")[2] or "teacher"
    return term.teachers is None or name in term.teachers


def _few(boxes: list[Box]) -> list[Box]:
    if len(boxes) <= _MOST:
        return boxes
    rest = boxes[_MOST - 1 :]
    last = Box(f"{len(rest)} more", ", ".join(box.text or box.kind for box in rest), rest[0].colour, [0])
    return [*boxes[: _MOST - 1], last]


def _block(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("source") or "")
    return str(value) if isinstance(value, str) else ""


def _sources(recipe: Mapping[str, Any]) -> list[Box]:
    found = []
    for key, block in together.sets(recipe).items():
        if _block(block):
            kinds = {"data": "data", "source": "source domain", "target": "target domain"}
            found.append(Box(kinds.get(key, f"source {key}"), _block(block)))
    models = () if recipe.get("job") == "together" else (("sources", "source model"),)
    for group, kind in (("teachers", "teacher"), *models):
        named = recipe.get(group)
        for name, block in named.items() if isinstance(named, Mapping) else ():
            found.append(Box(kind if name == "teacher" else f"{kind} {name}", _block(block), "teacher"))
    return found


def _terms(recipe: Mapping[str, Any]) -> list[_Carrier]:
    listed = recipe.get("objectives")
    found = []
    for entry in listed if isinstance(listed, list) else []:
        name, settings = next(iter(entry.items())) if isinstance(entry, Mapping) and len(entry) == 1 else (entry, {})
        settings = settings if isinstance(settings, Mapping) else {}
        needs = _needs(str(name))
        taught = needs is not None and any(str(need).startswith("teacher") for need in needs)
        asked = settings.get("teacher")
        teachers: Sequence[str] | None = ()
        if taught or (needs is None and asked):
            teachers = None if not asked else [asked] if isinstance(asked, str) else list(asked)
        weight = settings.get("weight")
        text = f"weight {weight:g}" if isinstance(weight, (int, float)) else "weight changes" if isinstance(weight, Mapping) else ""
        labels_alone = needs is not None and "domains" not in needs
        found.append(_Carrier(Box(str(name).replace("_", " "), text, "extra-2"), not taught, teachers, not labels_alone))
    return found


def _needs(name: str) -> Sequence[str] | None:
    try:
        return sorted(objectives.card(name).needs)
    except (TransfuseError, ImportError, AttributeError):  # an object of the user's, or a plug-in that isn't installed here
        return None


def _ways(recipe: Mapping[str, Any]) -> list[_Carrier]:
    ways = recipe.get("how")
    listed = ways if isinstance(ways, list) else [ways] if isinstance(ways, str) else []
    names = [next(iter(way)) if isinstance(way, Mapping) and way else str(way) for way in listed]
    return [_Carrier(Box("fusion", str(name), "extra-2"), True) for name in names]


def _learner(recipe: Mapping[str, Any]) -> list[Box]:
    found = []
    for key in ("student", "model"):
        if _block(recipe.get(key)):
            found.append(Box("student", _block(recipe[key]), "student"))
    if not found and recipe.get("sources"):
        found.append(Box("fused model", "", "student"))
    peers = recipe.get("peers")
    found += [Box(f"peer {name}", _block(block), "peer") for name, block in peers.items()] if isinstance(peers, Mapping) else []
    if found and recipe.get("control") not in (None, "none"):
        found.append(Box("control", "the same without the transfer", "control", dashed=True))
    return found
