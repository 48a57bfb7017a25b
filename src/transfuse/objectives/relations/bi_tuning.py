"""Bi-Tuning: each sample is drawn to remembered samples of its class, and each class's prototype to its own samples."""

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from transfuse.core.bridges import channels_of
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.ranks import gather_rows
from transfuse.core.types import Signals, Step
from transfuse.objectives._vectors import last_tap, unit, vectors

CARD = Card(
    title="Bi-Tuning",
    paper="Zhong et al., 2020, arXiv",
    link="https://arxiv.org/abs/2011.06182",
    level="sample",
    needs=("hard_labels", "student.features", "student.head", "two_views"),
    paper_weight=1.0,
    cost="the student on a second view of each sample; two memories of queue samples per class",
)


def bi_tuning_loss(
    instance_logits: Float[Tensor, "batch keys"],
    prototype_logits: Float[Tensor, "batch keys"],
    positives: Bool[Tensor, "batch keys"],
    present: Bool[Tensor, "batch keys"],
) -> Float[Tensor, "batch"]:
    """-mean over positives of log softmax(instance)_k, and the same of the prototype's logits, per sample; softmax over the present keys.

    instance_logits: z . z_k / temperature, of a sample's projection and those of the keys (categorical contrast). prototype_logits:
    w_y . h_k / temperature, of the prototype of the sample's class and the features of the keys (contrastive cross-entropy, which runs over
    samples where cross-entropy runs over classes).
    """
    return _contrast(instance_logits, positives, present) + _contrast(prototype_logits, positives, present)


def _contrast(logits: Tensor, positives: Tensor, present: Tensor) -> Tensor:
    log_p = at_least_fp32(logits).masked_fill(~present, -torch.inf).log_softmax(-1)
    shared = positives & present
    return -torch.where(shared, log_p, 0.0).sum(-1) / shared.sum(-1).clamp(min=1)


class BiTuning(nn.Module):
    """Both contrasts with a memory of `queue` samples per class, filled in turn.

    Keys are the student's own features of the step's second view, without gradient, and the head's weights take none, as in a common
    implementation. What differs from the paper: there is no second network that follows the student with momentum 0.999, since keys of a
    network that moves as slowly as a fine-tuned one age little, and it would double the memory; the memory begins empty, not with random
    vectors; positives that are not there yet are left out of the mean. The memory changes in training mode only.

    Args:
        queue: remembered samples per class.
        temperature: of both contrasts.
        dimensions: of the projection.
        head: path of the student's head; null: found by a forward pass.
    """

    def __init__(
        self,
        queue: Annotated[int, Ge(1)] = 40,
        temperature: Annotated[float, Gt(0)] = 0.07,
        dimensions: Annotated[int, Ge(1)] = 128,
        head: str | None = None,
    ):
        super().__init__()
        self.queue, self.temperature, self.dimensions, self.head = queue, temperature, dimensions, head
        self.classes, self.path = 0, ""
        self.projector: nn.Module = nn.Identity()
        self.features: Tensor
        self.projections: Tensor
        self.filled: Tensor

    def set_outputs(self, outputs: int) -> None:
        self.classes = outputs

    def take_head(self, path: str, head: nn.Module) -> None:
        """Where the student's head is; its weights come with every step."""
        self.path = path

    def build(self, student_shapes: Mapping[str, tuple[int, ...]], teacher_shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Makes the projection and the empty memory.

        Raises:
            ValueError: nothing is tapped, or the student has a single output.
        """
        if not student_shapes:
            raise ValueError("no feature is tapped")
        if self.classes < 2:
            raise ValueError("prototypes are compared, and the student has a single output; give it one per class")
        width = channels_of(list(student_shapes.values())[-1])
        self.projector = nn.Linear(width, self.dimensions)
        # one row more than there are places: what is not remembered is written there, so that nothing waits for the device
        self.register_buffer("features", torch.zeros(self.classes * self.queue + 1, width + 1))
        self.register_buffer("projections", torch.zeros(self.classes * self.queue + 1, self.dimensions))
        self.register_buffer("filled", torch.zeros(self.classes + 1, dtype=torch.int64))  # samples of each class so far

    def forward(self, step: Step) -> Tensor:
        if step.second is None:
            raise ValueError("bi_tuning needs a second view of each sample")
        own, projected = self._embedded(step.student)
        with torch.no_grad():
            keys, key_projections = self._embedded(step.second.student)
            prototypes = self._prototypes(step)
        labels = step.batch.labels.clamp(min=0)
        instances = self._instances(projected, key_projections)
        of_own_class = prototypes[labels]
        remembered = (of_own_class @ self.features[:-1].to(own).T).detach()
        prototype_logits = torch.cat([(own * of_own_class).sum(1, keepdim=True), remembered], 1) / self.temperature
        positives, present = self._which(labels)
        value = bi_tuning_loss(instances, prototype_logits, positives, present)
        if self.training:
            self._remember(step.batch.labels, keys, key_projections)
        return value

    def _embedded(self, student: Signals) -> tuple[Tensor, Tensor]:
        """Unit vectors [batch, width + 1] of features with a 1 for the bias, and of projections."""
        found = vectors(last_tap(student, "student"))
        return unit(torch.cat([found, torch.ones_like(found[:, :1])], 1)), unit(self.projector(found))

    def _prototypes(self, step: Step) -> Tensor:
        weight = at_least_fp32(step.parameters[f"{self.path}.weight"]).flatten(1)
        bias = step.parameters.get(f"{self.path}.bias")
        return unit(torch.cat([weight, (torch.zeros_like(weight[:, 0]) if bias is None else at_least_fp32(bias))[:, None]], 1)).detach()

    def _instances(self, projected: Tensor, key_projections: Tensor) -> Tensor:
        memory = self.projections[:-1].to(projected).clone()  # autograd forbids changing what it saved
        return torch.cat([(projected * key_projections).sum(1, keepdim=True), projected @ memory.T], 1) / self.temperature

    def _which(self, labels: Int[Tensor, "batch"]) -> tuple[Tensor, Tensor]:
        """Which keys are of a sample's class, its own second view first, and which are there."""
        places = torch.arange(self.queue, device=labels.device)
        there = (places[None] < self.filled[:-1, None]).flatten()
        classes = torch.arange(self.classes, device=labels.device).repeat_interleave(self.queue)
        own = torch.ones_like(labels[:, None], dtype=torch.bool)
        return torch.cat([own, labels[:, None] == classes], 1), torch.cat([own, there.expand(len(labels), -1)], 1)

    @torch.no_grad()
    def _remember(self, labels: Tensor, features: Tensor, projections: Tensor) -> None:
        labels, features, projections = (gather_rows(rows) for rows in (labels, features, projections))
        labels = torch.where(labels < 0, self.classes, labels)
        same = labels[:, None] == labels[None, :]
        earlier = torch.tril(same, diagonal=-1).sum(1)  # samples of the same class before it in this batch
        lost = torch.triu(same, diagonal=1).sum(1) >= self.queue  # of more than the memory holds, the last ones stay
        places = labels * self.queue + (self.filled[labels] + earlier) % self.queue
        places = torch.where(lost | (labels == self.classes), self.classes * self.queue, places)
        self.features.index_copy_(0, places, features.to(self.features))
        self.projections.index_copy_(0, places, projections.to(self.projections))
        self.features[-1], self.projections[-1] = 0, 0  # equal bits, whichever of several was written last
        self.filled.index_add_(0, labels, torch.ones_like(labels))
        self.filled[-1] = 0
