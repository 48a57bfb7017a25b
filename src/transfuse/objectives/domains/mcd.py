"""Maximum classifier discrepancy: two heads disagree about the target as far as the source allows, and features settle the dispute."""

from typing import Annotated

from annotated_types import Ge
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import log_softmax_at
from transfuse.core.ranks import gather_rows
from transfuse.core.types import Step, Turn
from transfuse.objectives._vectors import last_tap
from transfuse.objectives.domains._marks import all_domains, target_mask

CARD = Card(
    title="Maximum classifier discrepancy (MCD)",
    paper="Saito, Watanabe, Ushiku, Harada, 2018, CVPR",
    link="https://arxiv.org/abs/1712.02560",
    level="batch",
    needs=("student.features", "domains"),
    paper_weight=1.0,
    tasks=("classification",),
    cost="a second head, and two passes more per step and one more per update of the features: six with the default",
)


def mcd_loss(
    student_logits: Float[Tensor, "batch classes"], second_logits: Float[Tensor, "batch classes"], domains: Int[Tensor, "batch"]
) -> Float[Tensor, ""]:
    """Mean over the target samples (domain 1) of 1/K sum_c |p_c - q_c|, p and q the softmax of the two heads; 0 without target samples.

    Raises:
        ValueError: a single class, about which two heads can't disagree.
    """
    if student_logits.shape[-1] < 2:
        raise ValueError("two heads can't disagree about a single class; mcd needs two logits or more")
    gaps = (log_softmax_at(student_logits).exp() - log_softmax_at(second_logits).exp()).abs().mean(1)
    mask = target_mask(domains, gaps)
    return mask @ gaps / mask.sum().clamp(min=1)


class MCD(nn.Module):
    """A second head with the form of the student's and other initial weights; a step has 2 + updates phases, as in the paper.

    all: student and second head learn the labels, and all other terms. apart: the two heads learn the labels and disagree about the
    target, features stay. together, `updates` times: features make the heads agree about the target, heads stay. The network that is
    evaluated and shipped has the student's own head alone, so it costs what its control costs; the authors also report the sum of both.
    Like theirs, BatchNorm's running statistics follow every pass. They use a second optimiser for the heads; here one optimiser skips what
    a phase leaves as it is, which is the same. Their class-balance term for large data sets is not part of it.

    Args:
        head: module path of the student's head, whose outputs are the logits; null: its last layer. The paper's has two layers or three.
        updates: of the features per step; 4 in the paper's digits experiments.
    """

    def __init__(self, head: str | None = None, updates: Annotated[int, Ge(1)] = 4):
        super().__init__()
        self.head, self.updates = head, updates
        self.head_path = ""
        self.second: nn.Module = nn.Identity()

    def take_head(self, path: str, head: nn.Module) -> None:
        """Keeps a copy of the student's head, which `build` gives new weights."""
        self.head_path, self.second = path, head

    def build(self, student_shapes: dict[str, tuple[int, ...]], teacher_shapes: dict[str, tuple[int, ...]]) -> None:
        """Gives the second head initial weights of its own.

        Raises:
            ValueError: the head is not known, or has a layer that can't be initialised anew.
        """
        if not self.head_path:
            raise ValueError("the student's head is not known; call take_head before build")
        for name, layer in self.second.named_modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()  # type: ignore[operator]
            elif next(layer.parameters(recurse=False), None) is not None:
                raise ValueError(f"'{name}' in the head is a {type(layer).__name__}, which can't be given new initial weights")

    def turns(self) -> dict[str, Turn]:
        """The phases of a step."""
        together = {f"together {number}": Turn(sign=1, others="none", trains="body") for number in range(1, self.updates + 1)}
        return {"all": Turn(sign=0, others="all", trains="all"), "apart": Turn(sign=-1, others="labels", trains="heads"), **together}

    def second_logits(self, step: Step) -> Tensor:
        """What the second head says."""
        feature = last_tap(step.student, "student")
        parameter = next(self.second.parameters(), feature)
        answer = self.second(feature.to(parameter.dtype))
        return answer.mean((2, 3)) if answer.ndim == 4 else answer

    def forward(self, step: Step) -> Tensor:
        return mcd_loss(gather_rows(step.student.logits), gather_rows(self.second_logits(step)), all_domains(step))
