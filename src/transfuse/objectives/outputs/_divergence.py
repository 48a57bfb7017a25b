"""What all divergence objectives share: softening, one label or several per sample, dense or top-k teachers, several teachers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from transfuse.core.numerics import Measure, TopK, at_least_fp32, divergence, log_bernoulli_at, log_softmax_at
from transfuse.core.types import Batch, Signals, Step, float_labels

Kind = Literal["softmax", "bernoulli"]
Distribution = Literal["auto", "softmax", "bernoulli"]
Combine = Literal["probabilities", "logits", "losses"]
Confidence = Literal["equal", "labels", "entropy"]
Loss = Callable[[Tensor, Tensor | TopK, Kind], Tensor]
"""(student_logits, teacher_logits, kind) -> one value per sample."""


def kind_of(distribution: Distribution, step: Step) -> Kind:
    """What `auto` means: independent classes where labels are floats or there is a single logit."""
    if distribution != "auto":
        return distribution
    return "bernoulli" if step.student.logits.shape[-1] == 1 or float_labels(step.batch.labels) else "softmax"


def require_same_outputs(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """
    Raises:
        ValueError: student and teacher differ in their number of outputs; torch would broadcast a single one in silence.
    """
    if student_logits.shape != teacher_logits.shape:
        shapes = f"{list(student_logits.shape)} and {list(teacher_logits.shape)}"
        raise ValueError(
            f"student and teacher differ in their outputs: logits of shape {shapes}; map the teacher's classes to the student's"
        )


def require_classes(student_logits: Tensor, why: str = "a softmax over one logit is always 1 and teaches nothing") -> None:
    """
    Raises:
        ValueError: there is only one class.
    """
    if student_logits.shape[-1] < 2:
        raise ValueError(f"{why}; use distribution='bernoulli' of kd, or two logits")


def require_temperature(temperature: float) -> None:
    """
    Raises:
        ValueError: the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")


def soft_divergence(
    measure: Measure,
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"] | TopK,
    temperature: float,
    kind: Kind,
) -> Float[Tensor, "batch"]:
    """The measure between both predictions at this temperature, without any factor; independent classes are summed.

    Raises:
        ValueError: temperature not positive, a softmax over one logit, other numbers of outputs, a top-k teacher at another temperature
            or for independent classes.
    """
    require_temperature(temperature)
    if kind == "bernoulli":
        if isinstance(teacher_logits, TopK):
            raise ValueError("a top-k teacher holds a softmax, not independent classes; keep dense logits for distribution='bernoulli'")
        require_same_outputs(student_logits, teacher_logits)
        return measure(log_bernoulli_at(teacher_logits.detach(), temperature), log_bernoulli_at(student_logits, temperature)).sum(-1)
    require_classes(student_logits)
    student_log_p = log_softmax_at(student_logits, temperature)
    if isinstance(teacher_logits, TopK):
        if teacher_logits.temperature != temperature:
            kept = teacher_logits.temperature
            raise ValueError(f"the teacher's top-k was taken at temperature {kept}, and the tail at {temperature} can't be rebuilt from it")
        return divergence(measure, teacher_logits, student_log_p)
    require_same_outputs(student_logits, teacher_logits)
    return divergence(measure, log_softmax_at(teacher_logits.detach(), temperature), student_log_p)


def teacher_weights(
    teachers_logits: Sequence[Float[Tensor, "batch classes"]], batch: Batch, confidence: Confidence, kind: Kind
) -> Float[Tensor, "teachers batch"]:
    """How much each teacher counts for each sample; sums to 1 over the teachers.

    - equal: 1 / K.
    - labels: (1 - softmax_k(CE_k)) / (K - 1), with CE_k teacher k's cross-entropy with the label, as in CA-MKD (Zhang, Chen, Wang, 2022,
      ICASSP, https://arxiv.org/abs/2201.00007). Samples without a label count teachers equally. The authors' code divides by K once
      more; here that is the objective's weight.
    - entropy: (1 - H_k / sum_j H_j) / (K - 1), with H_k the entropy of teacher k's prediction, as in EBKD (Kwon et al., 2020, ICASSP).
    """
    count = len(teachers_logits)
    stacked = at_least_fp32(torch.stack(list(teachers_logits)).detach())
    if count == 1 or confidence == "equal":
        return torch.full_like(stacked[..., 0], 1 / count)
    if confidence == "entropy":
        log_p = log_softmax_at(stacked) if kind == "softmax" else log_bernoulli_at(stacked)
        entropy = -(log_p.exp() * log_p).flatten(2).sum(-1)
        total = entropy.sum(0)
        shares = torch.where(total > 0, entropy / total.clamp(min=torch.finfo(total.dtype).tiny), 1 / count)  # all certain: equal
        return (1 - shares) / (count - 1)
    cross_entropy = torch.stack([_cross_entropy(logits, batch, kind) for logits in stacked])
    weights = (1 - cross_entropy.softmax(0)) / (count - 1)
    return torch.where(batch.labelled, weights, torch.full_like(weights, 1 / count))


def _cross_entropy(logits: Tensor, batch: Batch, kind: Kind) -> Tensor:
    if kind == "bernoulli" and float_labels(batch.labels):
        known = ~batch.labels.isnan()
        targets = torch.where(known, batch.labels, torch.zeros_like(batch.labels)).to(logits.dtype)
        terms = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return torch.where(known, terms, torch.zeros_like(terms)).sum(-1)
    if logits.shape[-1] == 1:  # the log-odds of the second of two classes
        logits = torch.cat([torch.zeros_like(logits), logits], -1)
    if batch.label_probabilities is not None:
        return -(batch.label_probabilities.to(logits.dtype) * log_softmax_at(logits)).sum(-1)
    if float_labels(batch.labels):
        raise ValueError("labels are not class numbers, so teachers can't be weighted by them; use confidence: equal or entropy")
    return -log_softmax_at(logits).gather(-1, batch.labels.clamp(min=0)[:, None])[:, 0]


def merged_logits(
    teachers_logits: Sequence[Float[Tensor, "batch classes"]],
    weights: Float[Tensor, "teachers batch"],
    combine: Literal["probabilities", "logits"],
    temperature: float,
    kind: Kind,
) -> Float[Tensor, "batch classes"]:
    """One teacher in place of several: logits that soften to the mean of their softened probabilities, or the mean of their logits."""
    stacked = at_least_fp32(torch.stack(list(teachers_logits)).detach())
    if combine == "logits":
        return (weights[..., None] * stacked).sum(0)
    log_weights = weights.clamp(min=torch.finfo(weights.dtype).tiny).log()[..., None]
    if kind == "softmax":
        return temperature * (log_weights + log_softmax_at(stacked, temperature)).logsumexp(0)
    yes, no = (log_weights[..., None] + log_bernoulli_at(stacked, temperature)).logsumexp(0).unbind(-1)
    return temperature * (yes - no)


def softened(signals: Signals, temperature: float) -> Tensor | TopK:
    """A teacher's logits, or the largest of them softened, where only those were stored.

    Raises:
        ValueError: they were stored for other temperatures.
    """
    return signals.logits if signals.top is None else signals.top.at(temperature)


def over_teachers(
    loss: Loss, step: Step, temperature: float, distribution: Distribution, combine: Combine, confidence: Confidence
) -> Float[Tensor, "batch"]:
    """A divergence from one or several teachers: of their merged prediction, or the weighted mean of the divergences from each.

    Raises:
        ValueError: the step has no teacher; several of them are merged or weighted and one has only its largest logits.
    """
    kind = kind_of(distribution, step)
    if len(step.teachers) == 1:
        return loss(step.student.logits, softened(step.teacher, temperature), kind)
    if not step.teachers:
        raise ValueError("a divergence needs at least one teacher, and the step has none")
    if any(signals.top is not None for signals in step.teachers.values()):
        if combine != "losses" or confidence != "equal":
            raise ValueError("teachers of which only the largest logits are stored can't be merged or weighted; use combine: losses")
        each = [loss(step.student.logits, softened(signals, temperature), kind) for signals in step.teachers.values()]
        return torch.stack(each).mean(0)
    teachers_logits = [signals.logits for signals in step.teachers.values()]
    weights = teacher_weights(teachers_logits, step.batch, confidence, kind)
    if combine == "losses":
        return (weights * torch.stack([loss(step.student.logits, logits, kind) for logits in teachers_logits])).sum(0)
    return loss(step.student.logits, merged_logits(teachers_logits, weights, combine, temperature, kind), kind)
