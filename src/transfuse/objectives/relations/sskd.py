"""Self-supervision: the student learns what its teacher says of turned pictures, and which upright ones it finds them like."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from transfuse.core.bridges import channels_of
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32, kl_divergence, log_softmax_at
from transfuse.core.ranks import gather_rows
from transfuse.core.stages import Stage
from transfuse.core.types import Batch, Signals, Step
from transfuse.objectives._vectors import last_tap, unit, vectors
from transfuse.objectives.outputs._divergence import require_classes, require_same_outputs, require_temperature

CARD = Card(
    title="Self-supervised knowledge distillation (SSKD)",
    paper="Xu, Liu, Li, Loy, 2020, ECCV",
    link="https://arxiv.org/abs/2006.07114",
    level="batch",
    needs=("teacher.logits.dense", "teacher.features", "student.features", "rotations"),
    paper_weight=1.0,
    tasks=("classification",),
    cost="student and teacher see each picture four times, the teacher live; two linear layers per model, the teacher's prepared before",
)
_SLACK = 1e-4  # of a number of kept samples, so that 0.9 of 10 are 9 in float32, too


def sskd_loss(
    student_logits: Float[Tensor, "4 batch classes"],
    teacher_logits: Float[Tensor, "4 batch classes"],
    student_embeddings: Float[Tensor, "4 batch width"],
    teacher_embeddings: Float[Tensor, "4 batch teacher_width"],
    labels: Int[Tensor, "batch"] | None = None,
    weights: tuple[float, float, float] = (0.9, 2.7, 10.0),
    temperatures: tuple[float, float] = (4.0, 0.5),
    kept: tuple[float, float] = (1.0, 0.75),
) -> Float[Tensor, ""]:
    """w1 T^2 mean KL(t || s) over upright pictures + w2 T^2 mean KL(t || s) over turned ones + w3 U^2 mean KL(A^t || A^s).

    The first dimension is the turn: 0, 90, 180, 270 degrees. T and U are the temperatures, predictions are softened by T. A row of A is the
    softmax of cos(z_i, z_j) / U over the upright pictures j, for a turned picture i; its own upright picture is the right answer.
    Where the teacher is wrong about a turned picture, the lesson may be kept from the student: of both means over turned pictures all that
    the teacher gets right are kept, and of the others this share, those first for which the right answer stands highest in its ranking (the
    more probable ones first where the rank is the same). Right means the label in the second term; pictures without one (labels -1, or no
    labels) are kept.

    Raises:
        ValueError: temperatures that are not positive, other numbers of outputs, a single class.
    """
    for temperature in temperatures:
        require_temperature(temperature)
    require_same_outputs(student_logits, teacher_logits)
    require_classes(student_logits)
    teacher_log_p, student_log_p = (log_softmax_at(logits, temperatures[0]) for logits in (teacher_logits.detach(), student_logits))
    values = kl_divergence(teacher_log_p, student_log_p)
    turned = _taught(teacher_log_p[1:].flatten(0, 1), None if labels is None else labels.repeat(3), kept[0])
    teacher_rows, student_rows = (
        log_softmax_at(sskd_similarities(rows), temperatures[1]) for rows in (teacher_embeddings.detach(), student_embeddings)
    )
    own = torch.arange(teacher_rows.shape[1], device=teacher_rows.device).repeat(3)
    alike = _taught(teacher_rows, own, kept[1])
    return (
        weights[0] * temperatures[0] ** 2 * values[0].mean()
        + weights[1] * temperatures[0] ** 2 * _mean(values[1:].flatten(), turned)
        + weights[2] * temperatures[1] ** 2 * _mean(kl_divergence(teacher_rows, student_rows), alike)
    )


def sskd_similarities(embeddings: Float[Tensor, "4 batch width"]) -> Float[Tensor, "turned batch"]:
    """cos(z_i, z_j) of every turned picture i (all at 90 degrees first) with every upright one j."""
    directions = unit(at_least_fp32(embeddings))
    return directions[1:].flatten(0, 1) @ directions[0].T


def _taught(teacher_log_p: Float[Tensor, "rows answers"], right: Int[Tensor, "rows"] | None, share: float) -> Bool[Tensor, "rows"]:
    """Which rows are kept: those that the teacher gets right, and the given share of the others, the least wrong ones first."""
    if right is None or share == 1.0:
        return torch.ones(len(teacher_log_p), dtype=torch.bool, device=teacher_log_p.device)
    known = right >= 0
    found = teacher_log_p.gather(1, right.clamp(min=0)[:, None])
    rank = torch.where(known, (teacher_log_p > found).sum(1), 0)
    order = torch.where(known, found[:, 0], torch.inf).argsort(descending=True, stable=True)
    order = order[rank[order].argsort(stable=True)]  # by rank, and by probability within a rank
    wrong = (rank > 0).sum()
    count = len(rank) - wrong + (wrong * share + _SLACK).floor()
    return torch.zeros_like(known).scatter(0, order, torch.arange(len(rank), device=rank.device) < count)


def _mean(values: Float[Tensor, "rows"], rows: Bool[Tensor, "rows"]) -> Float[Tensor, ""]:
    return torch.where(rows, values, 0.0).sum() / rows.sum().clamp(min=1)


class SSKD(nn.Module):
    """Upright and turned predictions and likenesses of one teacher, among the batch of all processes, on the deepest tapped features.

    First the teacher's embedding (two linear layers with a ReLU on its frozen feature) learns to find each turned picture's upright one
    among those of the batch, by cross-entropy over cosines (`prepare`); then it stays as it is, and the student's embedding is trained with
    the student. The preparation has the recipe's optimiser and learning-rate schedule over steps of its own, which come on top of the
    student's; 60 epochs beside 240 in the authors' code (github.com/xuguodong03/SSKD).

    The authors' recipe is cross_entropy with weight 0.1 beside this, whose weights for soft targets (0.9), turned pictures (2.7) and
    likenesses (10) are the defaults here; a kd beside it would count the upright pictures twice. Their code turns pictures and nothing
    else, as here; the paper tries colours and crops too. What differs: a picture's four turns have one random crop instead of one each, and
    where two rows rank equally, the code keeps either one, this the one whose right answer is the more probable.

    Args:
        upright: weight of the soft targets for upright pictures; 0 where a kd of its own gives them.
        turned: weight of the soft targets for turned pictures.
        likeness: weight of the likenesses.
        temperature: of the soft targets.
        likeness_temperature: of the likenesses.
        kept_turned: which share of the turned pictures that the teacher gets wrong teaches soft targets.
        kept_likeness: which share of those whose upright picture the teacher doesn't find teaches likenesses.
        preparation: steps of the teacher's embedding, as a share of the student's.
    """

    def __init__(
        self,
        upright: Annotated[float, Ge(0)] = 0.9,
        turned: Annotated[float, Ge(0)] = 2.7,
        likeness: Annotated[float, Ge(0)] = 10.0,
        temperature: Annotated[float, Gt(0)] = 4.0,
        likeness_temperature: Annotated[float, Gt(0)] = 0.5,
        kept_turned: Annotated[float, Ge(0), Le(1)] = 1.0,
        kept_likeness: Annotated[float, Ge(0), Le(1)] = 0.75,
        preparation: Annotated[float, Gt(0)] = 0.25,
    ):
        super().__init__()
        self.weights = (upright, turned, likeness)
        self.temperatures = (temperature, likeness_temperature)
        self.kept = (kept_turned, kept_likeness)
        self.preparation = preparation
        self.student_embedding: nn.Module = nn.Identity()
        self.teacher_embedding: nn.Module = nn.Identity()

    def stages(self) -> Sequence[Stage]:
        return (Stage("prepare", self.preparation, ("teacher_embedding",)),)

    def build(self, student_shapes: Mapping[str, tuple[int, ...]], teacher_shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Makes the embeddings, as wide as the features.

        Raises:
            ValueError: nothing is tapped.
        """
        if not student_shapes or not teacher_shapes:
            raise ValueError("no feature is tapped; name student_tap and teacher_tap, usually the last features")
        widths = [channels_of(list(shapes.values())[-1]) for shapes in (student_shapes, teacher_shapes)]
        self.student_embedding, self.teacher_embedding = (_embedding(width) for width in widths)

    def prepare(self, step: Step) -> Float[Tensor, ""]:
        """What the teacher's embedding learns from: mean over turned pictures of the cross-entropy of their cosines with upright ones."""
        embeddings = self.teacher_embedding(_features([view.teacher for view in _views(step)], "teacher").detach())
        similarities = sskd_similarities(embeddings)
        own = torch.arange(similarities.shape[1], device=similarities.device).repeat(3)
        return F.cross_entropy(similarities, own)

    def forward(self, step: Step) -> Tensor:
        students, teachers = ([getattr(view, whose) for view in _views(step)] for whose in ("student", "teacher"))
        return sskd_loss(
            _gathered([signals.logits for signals in students]),
            _gathered([signals.logits for signals in teachers]),
            self.student_embedding(_features(students, "student")),
            self.teacher_embedding(_features(teachers, "teacher").detach()),
            _labels(step.batch) if self.kept[0] < 1 else None,
            self.weights,
            self.temperatures,
            self.kept,
        )


def _embedding(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def _views(step: Step) -> list[Step]:
    """
    Raises:
        ValueError: the step has no turned pictures.
    """
    if len(step.rotations) != 3:
        raise ValueError(f"sskd compares four turns of each picture, and the step has {1 + len(step.rotations)}")
    return [step, *step.rotations]


def _gathered(turns: list[Tensor]) -> Float[Tensor, "4 batch width"]:
    """The rows of all processes, exchanged once for all turns."""
    return gather_rows(torch.stack(turns, 1)).transpose(0, 1)


def _features(turns: list[Signals], whose: str) -> Float[Tensor, "4 batch width"]:
    return _gathered([vectors(last_tap(signals, whose)) for signals in turns])


def _labels(batch: Batch) -> Int[Tensor, "batch"]:
    """Class numbers, -1 where there is none; the likeliest class of a mixed picture."""
    labels = batch.labels if batch.label_probabilities is None else batch.label_probabilities.argmax(1)
    return gather_rows(torch.where(batch.labelled, labels, -1))
