"""Attention maps of transformers: the student's tokens are to look where the teacher's look."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import Shape, require_pairs
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32, kl_divergence
from transfuse.core.types import Step
from transfuse.errors import ModelError
from transfuse.objectives.features._pairs import pairs, require_same_shape, total

CARD = Card(
    title="Attention maps of transformers (MiniLM, TinyBERT)",
    paper="Wang, Wei, Dong, Bao, Yang, Zhou, 2020, NeurIPS; Jiao et al., 2020, Findings of EMNLP",
    link="https://arxiv.org/abs/2002.10957",
    level="sample",
    needs=("teacher.features",),
    paper_weight=1.0,
    tasks=("classification", "multilabel", "regression"),
    cost="both networks have to compute their attention maps in full, without fused kernels; the teacher's features on disk",
)
SMALLEST = 1e-7  # a probability that was rounded to 0 has no logarithm
ROUNDED = 0.02  # how far from 1 half-precision probabilities may sum
WHERE = "tap the dropout behind the softmax, with fused attention switched off"

Heads = Literal["each", "mean"]
Distance = Literal["kl", "mse"]


def attention_maps_loss(
    student_features: Float[Tensor, "batch heads queries keys"],
    teacher_features: Float[Tensor, "batch teacher_heads teacher_queries teacher_keys"],
    distance: Distance = "kl",
    heads: Heads = "each",
) -> Float[Tensor, "batch"]:
    """Distance of attention probabilities, per sample.

    kl (MiniLM, equation 5; MobileBERT): mean over heads and queries of KL(a_t || a_s) over keys, in nats.
    mse (the form of TinyBERT, which compares scores before the softmax): mean over entries of (a_s - a_t)^2.

    Raises:
        ValueError: other numbers of tokens, or of heads where each is compared.
    """
    student, teacher = at_least_fp32(student_features), at_least_fp32(teacher_features.detach())
    if heads == "mean":
        student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
    elif student.shape[1] != teacher.shape[1]:
        raise ValueError(f"{student.shape[1]} heads can't be compared with {teacher.shape[1]} one by one; use heads: mean")
    require_same_shape(student, teacher)
    if distance == "mse":
        return (student - teacher).square().flatten(1).mean(1)
    log_p, log_q = (values.clamp(min=SMALLEST).log() for values in (teacher, student))
    return kl_divergence(log_p, log_q).flatten(1).mean(1)


class AttentionMaps(nn.Module):
    """Attention probabilities of one teacher, summed over pairs of taps.

    Tap modules that give probabilities [batch, heads, tokens, tokens]: `blocks.11.attn.attn_drop` of a timm network whose
    `attn.fused_attn` is False, `encoder.layer.11.attention.self[1]` of a BERT.

    Args:
        distance: kl or mse.
        heads: each with its own, as in the papers, or the mean over heads where their numbers differ.
    """

    named_taps = "attention maps can't be found by themselves: they lie inside blocks, where only their softmax tells them from other maps"

    def __init__(self, distance: Distance = "kl", heads: Heads = "each"):
        super().__init__()
        self.distance: Distance = distance
        self.heads: Heads = heads

    def build(self, student_shapes: dict[str, Shape], teacher_shapes: dict[str, Shape]) -> None:
        require_pairs(student_shapes, teacher_shapes)
        for path, shape in [*student_shapes.items(), *teacher_shapes.items()]:
            if len(shape) != 4 or shape[2] != shape[3]:
                what = f"'{path}' gives {list(shape)}, and an attention map is [batch, heads, tokens, tokens]"
                raise ModelError(what, fix=WHERE)

    def inspect(self, step: Step) -> None:
        """Looks at the features of real samples once, before training.

        Raises:
            ModelError: a tapped square map holds no probabilities, as those of convolutions.
        """
        for signals in (step.student, step.teacher):
            for path, feature in signals.features.items():
                rows = at_least_fp32(feature)
                if bool((rows < 0).any()) or not bool(((rows.sum(-1) - 1).abs() < ROUNDED).all()):
                    what = f"'{path}' gives no attention probabilities: its rows are not numbers of 0 or more that sum to 1"
                    raise ModelError(what, fix=WHERE)

    def forward(self, step: Step) -> Tensor:
        return total(lambda student, teacher: attention_maps_loss(student, teacher, self.distance, self.heads), pairs(step))
