"""The only maths helpers: fp32 islands, stable divergences, masked means."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def at_least_fp32(values: Tensor) -> Tensor:
    """Half and bfloat16 become float32; float32 and float64 stay as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def log_softmax_at(logits: Float[Tensor, "*batch classes"], temperature: float = 1.0) -> Float[Tensor, "*batch classes"]:
    """log softmax(logits / temperature) in at least fp32."""
    return F.log_softmax(at_least_fp32(logits) / temperature, dim=-1)


def kl_divergence(
    teacher_log_p: Float[Tensor, "*batch classes"], student_log_p: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch"]:
    """KL(teacher || student) = sum_c p_c (log p_c - log q_c), per sample, in nats."""
    return F.kl_div(student_log_p, teacher_log_p, reduction="none", log_target=True).sum(-1)


def bernoulli_kl(
    teacher_logits: Float[Tensor, "*batch classes"], student_logits: Float[Tensor, "*batch classes"], temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """Sum over classes of KL(Bernoulli(sigmoid(t/T)) || Bernoulli(sigmoid(s/T))), in nats.

    Uses log sigmoid throughout: p log(p/q) + (1-p) log((1-p)/(1-q)) with no logarithm of a rounded probability.
    """
    teacher, student = at_least_fp32(teacher_logits) / temperature, at_least_fp32(student_logits) / temperature
    p = torch.sigmoid(teacher)
    yes = p * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = torch.sigmoid(-teacher) * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return (yes + no).sum(-1)


def masked_mean(values: Float[Tensor, "batch"], mask: Bool[Tensor, "batch"]) -> Float[Tensor, ""]:
    """Mean over the samples where the mask is true; 0 (with a zero gradient) where there are none."""
    kept = torch.where(mask, values, torch.zeros_like(values))  # not values * mask: a NaN outside the mask must not leak in
    return kept.sum() / mask.sum().clamp(min=1)
