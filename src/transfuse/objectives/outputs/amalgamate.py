"""Amalgamation of outputs: teachers that each know some of the classes are joined to one prediction over all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from jaxtyping import Bool, Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import UNKNOWN, at_least_fp32, kl_divergence, log_softmax_at
from transfuse.core.types import Step
from transfuse.objectives.outputs._divergence import require_classes, require_same_outputs, require_temperature

CARD = Card(
    title="Knowledge amalgamation by a probabilistic join of class sets",
    paper="Vongkulbhisal, Vinayavekhin, Visentini-Scarzanella, 2019, CVPR; for disjoint sets Shen, Wang, Song, Sun, Song, 2019, AAAI",
    link="https://arxiv.org/abs/1904.06062",
    level="sample",
    needs=("teacher.logits", "teacher.logits.dense"),
    paper_weight=1.0,
    tasks=("classification",),
    cost="the teachers' logits, and some rounds of Newton's method on as many numbers as there are teachers",
    teachers="several",
)

Evidence = Literal["energy", "equal"]
ROUNDS = 12
LONGEST = 3.0  # change of a t in one round
FARTHEST = 60.0


def known_classes(teachers_logits: Float[Tensor, "teachers batch classes"]) -> Bool[Tensor, "teachers batch classes"]:
    """Which classes each teacher knows: it says `UNKNOWN` (or less) about the others; NaN is no way to say so."""
    return ~(teachers_logits <= UNKNOWN)


def joined(
    teachers_logits: Sequence[Float[Tensor, "batch classes"]],
    temperature: float = 1.0,
    evidence: Evidence = "energy",
    mixture: float = 0.1,
) -> Float[Tensor, "batch classes"]:
    """log q of the prediction over all classes that agrees best with what every teacher says about its own classes.

    Teacher k knows the classes C_k and says p_k(c) = p(c | c in C_k), at this temperature. Of the K teachers, some may be asked about a
    class that they have never seen; w_k, which sums to 1 over k, is how much speaks for teacher k knowing this sample: energy, w_k
    proportional to sum_(c in C_k) exp(z_k(c)), or equal, 1 / K. q minimises

        1/K sum_k KL(p_k || q(. | C_k)) + mixture KL(m || q),    m = sum_k w_k p_k.

    The first term is that of the paper (equation 7): where sets overlap, it settles how probable each set is, since q(C_1) p_1(c) and
    q(C_2) p_2(c) have to be the same for every class c that both know. It can't tell how probable sets are that share no class; the
    second term can, and makes the solution unique. For disjoint sets q = m, which for energies at temperature 1 is the softmax of all
    logits side by side, as amalgamation of disjoint sets has it.

    With a_c = 1/K sum_k p_k(c) + mixture m_c the solution is q_c = a_c / (mixture + sum_(k: c in C_k) exp t_k), where the K numbers t
    minimise the convex sum_c a_c log(mixture + sum_(k: c in C_k) exp t_k) - 1/K sum_k t_k; Newton's method finds them, in float64. Its
    rounds are few, so that a step costs little: up to 0.01 of a probability is left where six sure teachers overlap in a class or two each,
    at a mixture of 1e-3 or more; below that the minimum lies so far away that it can be 0.6 and more, which the class refuses.
    Deviations from the paper: the second term, and that q is found for every sample by itself in each step.

    Args:
        teachers_logits: one per teacher, over all classes; `core.numerics.UNKNOWN` for a class that the teacher doesn't know.
        temperature: of p_k; energies are taken at 1.
        evidence: how much speaks for each teacher.
        mixture: weight of the second term; at least 1e-3, see above.

    Raises:
        ValueError: no teacher, or a temperature that is not positive.
    """
    require_temperature(temperature)
    if not teachers_logits:
        raise ValueError("amalgamation needs at least one teacher, and the step has none")
    logits = at_least_fp32(torch.stack(list(teachers_logits)).detach())
    known = known_classes(logits)
    logits = logits.masked_fill(~known, -math.inf)
    log_p = log_softmax_at(logits, temperature)
    count = len(logits)
    energies = logits.logsumexp(-1) if evidence == "energy" else torch.zeros_like(logits[..., 0])
    mixed = (energies.log_softmax(0)[..., None] + log_p).logsumexp(0)
    if count == 1:
        return mixed
    above = (log_p.exp().mean(0) + mixture * mixed.exp()).double()
    totals = _set_totals(above, known.double(), mixture)
    return (above.log() - totals.log()).log_softmax(-1).to(mixed.dtype)


def _set_totals(
    above: Float[Tensor, "batch classes"], known: Float[Tensor, "teachers batch classes"], mixture: float
) -> Float[Tensor, "batch classes"]:
    """mixture + sum_(k: c in C_k) exp t_k at the minimum."""
    member = known.permute(1, 2, 0)  # [batch, classes, teachers]
    count = member.shape[-1]
    t = torch.full_like(member[:, 0], -math.log(count))  # every set certain
    for _ in range(ROUNDS):
        weights = member * t.exp()[:, None]
        shares = weights / (mixture + weights.sum(-1, keepdim=True))
        slope = (above[..., None] * shares).sum(1) - 1 / count
        curvature = torch.diag_embed((above[..., None] * shares).sum(1)) - torch.einsum("bc,bci,bcj->bij", above, shares, shares)
        curvature = curvature + 1e-12 * torch.eye(count, dtype=t.dtype, device=t.device)
        # never singular by the line above; `solve` would ask the device about it in every round, and wait for its answer
        step = torch.linalg.solve_ex(curvature, slope[..., None], check_errors=False).result[..., 0]
        t = (t - step / (step.abs().amax(-1, keepdim=True) / LONGEST).clamp(min=1)).clamp(-FARTHEST, FARTHEST)
    return mixture + (member * t.exp()[:, None]).sum(-1)


def amalgamate_loss(
    student_logits: Float[Tensor, "batch classes"],
    teachers_logits: Sequence[Float[Tensor, "batch classes"]],
    temperature: float = 1.0,
    evidence: Evidence = "energy",
    mixture: float = 0.1,
) -> Float[Tensor, "batch"]:
    """T^2 KL(q || student's prediction at temperature T) per sample, in nats, with the join q of `joined`.

    Raises:
        ValueError: no teacher, temperature not positive, other numbers of outputs, or a single one.
    """
    require_classes(student_logits, why="classes are joined, and a softmax over one logit is always 1")
    for logits in teachers_logits:
        require_same_outputs(student_logits, logits)
    log_q = joined(teachers_logits, temperature, evidence, mixture)
    return temperature**2 * kl_divergence(log_q, log_softmax_at(student_logits, temperature))


class Amalgamate(nn.Module):
    """One student over all classes from teachers with different, disjoint or overlapping class sets; no labels are looked at.

    Args:
        temperature: softens teachers and student.
        evidence: what speaks for a teacher knowing a sample: the energy of its logits, or nothing (all count alike).
        mixture: weight of the mixture of the teachers beside their agreement on classes that several know; larger trusts evidence more,
            and below 1e-3 the join would be far from its minimum after the few rounds that a step can afford.
    """

    def __init__(
        self, temperature: Annotated[float, Gt(0)] = 1.0, evidence: Evidence = "energy", mixture: Annotated[float, Ge(1e-3)] = 0.1
    ):
        super().__init__()
        self.temperature, self.mixture = temperature, mixture
        self.evidence: Evidence = evidence

    def forward(self, step: Step) -> Tensor:
        teachers_logits = [signals.logits for signals in step.teachers.values()]
        return amalgamate_loss(step.student.logits, teachers_logits, self.temperature, self.evidence, self.mixture)
