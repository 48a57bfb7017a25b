"""Samples on which student and teacher disagree: chosen by their predictions, shown where the run kept the inputs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from transfuse.report.collect import Predictions, RunFiles

_LARGEST_SIDE = 160  # pixels of a thumbnail, to keep the page small


@dataclass
class Disagreement:
    """One sample.

    Attributes:
        sample: its id.
        picture: data URI of a PNG, or None.
        label: what it is.
        student, teacher: what the models say, with their confidence.
        right: who is right: "teacher", "student" or "neither".
    """

    sample: str
    picture: str | None
    label: str
    student: str
    teacher: str
    right: str


def disagreements(run: RunFiles, teacher: Predictions, most: int = 12) -> tuple[int, list[Disagreement]]:
    """How many test samples student and teacher answer differently, and some of them.

    Samples whose picture was kept come first; among them those where the teacher is right (what was not transferred), then those where
    the student is (what was not copied), then those where neither is; the surest pairs first.
    """
    student = run.predictions["student"]
    same_samples = len(student.ids) == len(teacher.ids) and (student.ids == teacher.ids).all()
    if run.task not in ("classification", "multilabel") or not same_samples or student.outputs.shape != teacher.outputs.shape:
        return 0, []
    names = run.names(max(2, student.outputs.shape[1]) if run.task == "classification" else student.outputs.shape[1])
    views = [_Answers(run.task, answers, names) for answers in (student, teacher)]
    differ = np.flatnonzero(~views[0].same(views[1]) & np.isfinite(teacher.outputs).any(1) & np.isfinite(student.outputs).any(1))
    right = {int(i): _right(views, int(i)) for i in differ}
    kept = pictures(run)
    rank = {"teacher": 0, "student": 1, "neither": 2, "": 3}

    def order(i: int) -> tuple[bool, int, float]:
        return str(student.ids[i]) not in kept, rank[right[i]], -float(views[0].confidence[i] + views[1].confidence[i])

    chosen = sorted(right, key=order)
    if kept:
        chosen = [i for i in chosen if str(student.ids[i]) in kept]
    return len(differ), [
        Disagreement(
            str(student.ids[i]),
            data_uri(kept[str(student.ids[i])]) if str(student.ids[i]) in kept else None,
            views[0].label(i),
            views[0].words(i),
            views[1].words(i),
            right[i],
        )
        for i in chosen[:most]
    ]


class _Answers:
    """One model's answers in words, for one label per sample or several."""

    def __init__(self, task: str, answers: Predictions, names: list[str]):
        self.multilabel, self.names, self.labels = task == "multilabel", names, answers.labels
        logits = answers.outputs.astype(np.float64)
        if not self.multilabel and logits.shape[1] == 1:
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        if self.multilabel:
            self.chosen = logits > 0
            self.confidence = 1 / (1 + np.exp(-np.clip(np.abs(logits).min(1), 0, 50)))
        else:
            self.chosen = logits.argmax(1)
            highest = logits.max(1, keepdims=True)
            with np.errstate(invalid="ignore"):
                self.confidence = np.nan_to_num(1 / np.exp(logits - highest).sum(1))

    def same(self, other: _Answers) -> np.ndarray:
        return (self.chosen == other.chosen).all(1) if self.multilabel else self.chosen == other.chosen

    def right(self, i: int) -> bool:
        return bool((self.chosen[i] == (self.labels[i] > 0.5)).all()) if self.multilabel else self.chosen[i] == self.labels[i]

    def label(self, i: int) -> str:
        if self.multilabel:
            return self._several(self.labels[i] > 0.5)
        return self.names[int(self.labels[i])] if 0 <= self.labels[i] < len(self.names) else "unknown"

    def words(self, i: int) -> str:
        return self._several(self.chosen[i]) if self.multilabel else f"{self.names[int(self.chosen[i])]} ({100 * self.confidence[i]:.0f}%)"

    def _several(self, mask: np.ndarray) -> str:
        return ", ".join(name for name, there in zip(self.names, mask, strict=True) if there) or "none"


def _right(views: list[_Answers], i: int) -> str:
    if not views[0].multilabel and views[0].labels[i] < 0:
        return ""
    return "student" if views[0].right(i) else "teacher" if views[1].right(i) else "neither"


def views(run: RunFiles) -> str | None:
    """The sheet of a few training samples in some of their views, as a data URI; None where the run kept none."""
    path = run.path / "samples" / "views.png"
    try:
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return None


def pictures(run: RunFiles) -> dict[str, np.ndarray]:
    """Sample id -> uint8 [1 or 3, height, width], of the raw inputs that the run kept and that are pictures."""
    ids, inputs = run.sample_ids, run.sample_inputs
    if ids is None or inputs is None or inputs.ndim != 4 or inputs.dtype != np.uint8 or inputs.shape[1] not in (1, 3):
        return {}
    return {str(name): picture for name, picture in zip(ids, inputs, strict=False)}


def data_uri(picture: np.ndarray) -> str:
    """A small PNG as a link's target."""
    image = Image.fromarray(picture[0] if len(picture) == 1 else np.ascontiguousarray(picture.transpose(1, 2, 0)))
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
