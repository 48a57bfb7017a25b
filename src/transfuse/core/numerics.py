"""The only maths helpers: fp32 islands, log-probabilities (dense or top-k with a tail), stable divergences, masked means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Measure = Callable[[Tensor, Tensor], Tensor]
"""(teacher_log_p, student_log_p) over the same events -> one value per sample."""


UNKNOWN = -65504.0
"""Logit of a class that a network doesn't know: finite, as caches keep it, and of probability 0; the lowest number of float16."""


def at_least_fp32(values: Tensor) -> Tensor:
    """Half and bfloat16 become float32; float32 and float64 stay as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def log_softmax_at(logits: Float[Tensor, "*batch classes"], temperature: float = 1.0) -> Float[Tensor, "*batch classes"]:
    """log softmax(logits / temperature) in at least fp32."""
    return F.log_softmax(at_least_fp32(logits) / temperature, dim=-1)


def log_bernoulli_at(logits: Float[Tensor, "*batch classes"], temperature: float = 1.0) -> Float[Tensor, "*batch classes 2"]:
    """log sigmoid(logits / temperature) and log(1 - that): every class as a distribution over yes and no."""
    scaled = at_least_fp32(logits) / temperature
    return torch.stack([F.logsigmoid(scaled), F.logsigmoid(-scaled)], dim=-1)


@dataclass(frozen=True)
class TopK:
    """The k most probable classes of each sample and the mass of all others: what a cache keeps where there are many classes.

    Attributes:
        classes: int64 [batch, k], class numbers.
        log_p: float [batch, k], their log-probabilities among all classes.
        tail_log_p: float [batch], log of the other classes' total probability.
        temperature: at which the logits were softened; the tail at another one can't be rebuilt.
    """

    classes: Int[Tensor, "*batch k"]
    log_p: Float[Tensor, "*batch k"]
    tail_log_p: Float[Tensor, "*batch"]
    temperature: float = 1.0


def top_k(logits: Float[Tensor, "*batch classes"], k: int, temperature: float = 1.0) -> TopK:
    """The k largest of softmax(logits / temperature), most probable first, and the rest as a tail."""
    log_p = log_softmax_at(logits, temperature)
    classes = log_p.topk(k, dim=-1).indices
    return TopK(classes, log_p.gather(-1, classes), log_outside(log_p, classes), temperature)


@dataclass(frozen=True)
class TopLogits:
    """The k largest logits of each sample, and what all others add up to at some temperatures: a top-k teacher before it is softened.

    Attributes:
        classes: int64 [batch, k], class numbers, the most probable first.
        logits: float [batch, k], less the sample's largest logit, which no softmax notices.
        log_tails: temperature -> float [batch], log sum over the other classes of exp((logit - largest) / temperature).
    """

    classes: Int[Tensor, "*batch k"]
    logits: Float[Tensor, "*batch k"]
    log_tails: dict[float, Float[Tensor, "*batch"]]

    def at(self, temperature: float) -> TopK:
        """Their log-probabilities among all classes, softened.

        Raises:
            ValueError: no tail was kept at this temperature, and it can't be rebuilt from another one's.
        """
        if temperature not in self.log_tails:
            kept = ", ".join(f"{known:g}" for known in self.log_tails)
            raise ValueError(f"the teacher's top-k was kept for temperatures {kept}; the tail at {temperature:g} can't be rebuilt")
        scaled, log_tail = at_least_fp32(self.logits) / temperature, self.log_tails[temperature]
        log_total = torch.logaddexp(scaled.logsumexp(-1), log_tail)
        return TopK(self.classes, scaled - log_total[..., None], log_tail - log_total, temperature)

    def select(self, rows: Tensor | slice) -> TopLogits:
        return TopLogits(self.classes[rows], self.logits[rows], {name: tail[rows] for name, tail in self.log_tails.items()})


def top_logits(logits: Float[Tensor, "*batch classes"], k: int, temperatures: Sequence[float]) -> TopLogits:
    """The k largest logits, and the tails of the others at these temperatures."""
    logits = at_least_fp32(logits)
    relative = logits - logits.max(-1, keepdim=True).values
    largest = relative.topk(k, dim=-1)
    tails = {float(temperature): log_outside(relative / temperature, largest.indices) for temperature in temperatures}
    return TopLogits(largest.indices, largest.values, tails)


def log_outside(log_p: Float[Tensor, "*batch classes"], classes: Int[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """log of the total of exp(log_p) over all classes that are not named; -inf where all are."""
    if classes.shape[-1] == log_p.shape[-1]:
        return torch.full_like(log_p[..., 0], -math.inf)
    return log_p.scatter(-1, classes, -math.inf).logsumexp(-1)


def same_events(
    teacher: Float[Tensor, "*batch classes"] | TopK, student_log_p: Float[Tensor, "*batch classes"]
) -> tuple[Float[Tensor, "*batch events"], Float[Tensor, "*batch events"]]:
    """Log-probabilities of teacher and student over the same events: all classes, or the teacher's top k and "another class"."""
    if not isinstance(teacher, TopK):
        return teacher, student_log_p
    named = student_log_p.gather(-1, teacher.classes)
    if teacher.classes.shape[-1] == student_log_p.shape[-1]:
        return teacher.log_p, named  # no tail: an event that nobody finds possible has no logarithm to differentiate
    student = torch.cat([named, log_outside(student_log_p, teacher.classes)[..., None]], dim=-1)
    return torch.cat([teacher.log_p, teacher.tail_log_p[..., None]], dim=-1), student


def divergence(
    measure: Measure, teacher: Float[Tensor, "*batch classes"] | TopK, student_log_p: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "..."]:
    """A measure between a dense or top-k teacher and a dense student.

    Over a top-k teacher the events are k classes and one bucket for the rest. For every f-divergence (all the measures below) that is a
    lower bound of the full value, with equality where teacher and student agree on how the rest is shared out.
    """
    return measure(*same_events(teacher, student_log_p))


def kl_divergence(
    teacher_log_p: Float[Tensor, "*batch classes"], student_log_p: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch"]:
    """KL(teacher || student) = sum_c p_c (log p_c - log q_c), per sample, in nats; classes with p_c = 0 add nothing, NaN stays NaN."""
    possible = teacher_log_p != -math.inf  # not ">", which NaN is not: a dead network would have a loss of 0
    log_p = torch.where(possible, teacher_log_p, 0.0)
    log_q = torch.where(possible, student_log_p, 0.0)
    return torch.where(possible, log_p.exp() * (log_p - log_q), 0.0).sum(-1)


def bernoulli_kl(
    teacher_logits: Float[Tensor, "*batch classes"], student_logits: Float[Tensor, "*batch classes"], temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """Sum over classes of KL(Bernoulli(sigmoid(t/T)) || Bernoulli(sigmoid(s/T))), in nats."""
    teacher_log_p, student_log_p = (log_bernoulli_at(logits, temperature) for logits in (teacher_logits, student_logits))
    return kl_divergence(teacher_log_p, student_log_p).sum(-1)


def reverse_kl_divergence(
    teacher_log_p: Float[Tensor, "*batch classes"], student_log_p: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch"]:
    """KL(student || teacher) = sum_c q_c (log q_c - log p_c), per sample, in nats."""
    return kl_divergence(student_log_p, teacher_log_p)


def log_mixture(
    log_p: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"], share: float
) -> Float[Tensor, "*batch classes"]:
    """log(share p + (1 - share) q), for a share strictly between 0 and 1; the probabilities are mixed, not their logarithms."""
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


def jensen_shannon(
    teacher_log_p: Float[Tensor, "*batch classes"], student_log_p: Float[Tensor, "*batch classes"], share: float = 0.5
) -> Float[Tensor, "*batch"]:
    """share KL(p || m) + (1 - share) KL(q || m) with m = share p + (1 - share) q, per sample, in nats."""
    middle = log_mixture(teacher_log_p, student_log_p, share)
    return share * kl_divergence(teacher_log_p, middle) + (1 - share) * kl_divergence(student_log_p, middle)


def total_variation(
    teacher_log_p: Float[Tensor, "*batch classes"], student_log_p: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch"]:
    """1/2 sum_c |p_c - q_c|, per sample, between 0 and 1."""
    return 0.5 * (teacher_log_p.exp() - student_log_p.exp()).abs().sum(-1)


def masked_mean(values: Float[Tensor, "batch"], mask: Bool[Tensor, "batch"]) -> Float[Tensor, ""]:
    """Mean over the samples where the mask is true; 0 (with a zero gradient) where there are none."""
    kept = torch.where(mask, values, torch.zeros_like(values))  # not values * mask: a NaN outside the mask must not leak in
    return kept.sum() / mask.sum().clamp(min=1)
