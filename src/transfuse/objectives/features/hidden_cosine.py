"""Patient distillation: hidden states are to point where the teacher's point, whatever their length."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import Bridge, Shape, channels_of, kind_of, require_pairs
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.types import Step
from transfuse.objectives.features._pairs import pairs, require_same_shape, total, unit_length

CARD = Card(
    title="Patient knowledge distillation (PKD): hidden states by direction",
    paper="Sun, Cheng, Gan, Liu, 2019, EMNLP",
    link="https://arxiv.org/abs/1908.09355",
    level="sample",
    needs=("teacher.features",),
    paper_weight=100.0,
    tasks=("classification", "multilabel", "regression"),
    cost="one linear layer per pair of taps whose widths differ; the teacher's features on disk",
)

Tokens = Literal["first", "mean", "all"]
Distance = Literal["squared", "cosine"]


def hidden_cosine_loss(
    student_features: Float[Tensor, "batch *shape"], teacher_features: Float[Tensor, "batch *teacher_shape"], distance: Distance = "squared"
) -> Float[Tensor, "batch"]:
    """Distance of directions along the last dimension, per sample, as the mean over tokens where there are some.

    squared: || s / ||s|| - t / ||t|| ||^2 = 2 - 2 cos(s, t), PKD's equation 7. cosine: 1 - cos(s, t), the cosine loss of DistilBERT.

    Raises:
        ValueError: the shapes differ.
    """
    require_same_shape(student_features, teacher_features)
    student = unit_length(at_least_fp32(student_features))
    squares = (student - unit_length(at_least_fp32(teacher_features.detach()))).square().sum(-1)
    values = squares if distance == "squared" else 0.5 * squares
    return values.flatten(1).mean(1) if values.ndim > 1 else values


class HiddenCosine(nn.Module):
    """Directions of one teacher's hidden states, averaged over pairs of taps' tokens and summed over pairs of taps.

    The paper compares networks of one width; a linear layer is trained where the widths differ.

    Args:
        tokens: first, the class token as in the paper; mean, the state averaged over tokens (or over a map's positions); all, every token.
        distance: squared, as in the paper, or cosine, half of it.
    """

    def __init__(self, tokens: Tokens = "first", distance: Distance = "squared"):
        super().__init__()
        self.tokens: Tokens = tokens
        self.distance: Distance = distance
        self.bridges = nn.ModuleList()

    def build(self, student_shapes: dict[str, Shape], teacher_shapes: dict[str, Shape]) -> None:
        require_pairs(student_shapes, teacher_shapes)
        self.bridges = nn.ModuleList()
        for student, teacher in zip(student_shapes.values(), teacher_shapes.values(), strict=True):
            kinds = {kind_of(student), kind_of(teacher)}
            if self.tokens != "mean" and "maps" in kinds:
                raise ValueError(f"tokens: {self.tokens} needs tokens or vectors, and a feature is maps; use tokens: mean")
            if self.tokens == "all" and student[1:-1] != teacher[1:-1]:
                raise ValueError(f"tokens: all compares token by token, and there are {student[1]} and {teacher[1]}; use tokens: mean")
            self.bridges.append(Bridge(self._shape(student), self._shape(teacher), always=False))

    def _shape(self, shape: Shape) -> Shape:
        return shape if self.tokens == "all" else (shape[0], channels_of(shape))

    def _chosen(self, feature: Tensor) -> Tensor:
        kind = kind_of(feature.shape)
        if kind == "vectors" or self.tokens == "all":
            return feature
        if self.tokens == "first":
            return feature[:, 0]
        feature = at_least_fp32(feature)
        return feature.mean((2, 3)) if kind == "maps" else feature.mean(1)

    def forward(self, step: Step) -> Tensor:
        chosen = [(self._chosen(student), self._chosen(teacher)) for student, teacher in pairs(step)]
        compared = [bridge(student, teacher) for bridge, (student, teacher) in zip(self.bridges, chosen, strict=True)]
        return total(lambda student, teacher: hidden_cosine_loss(student, teacher, self.distance), compared)
