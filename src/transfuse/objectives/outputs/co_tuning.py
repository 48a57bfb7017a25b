"""Co-Tuning: the source's own head keeps learning, from what the target's classes look like to it."""

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Gt
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.heads import Ending
from transfuse.core.numerics import at_least_fp32
from transfuse.core.types import Step, Trial
from transfuse.objectives._vectors import last_tap, vectors

CARD = Card(
    title="Co-Tuning",
    paper="You, Kou, Long, Wang, 2020, NeurIPS",
    link="https://proceedings.neurips.cc/paper/2020/hash/c8067ad1937f728f51288b3eb986afaa-Abstract.html",
    level="sample",
    needs=("hard_labels", "student.features", "teacher.head"),
    paper_weight=2.3,
    cost="the source's head on the student's features; before training, a forward pass of the start over some training samples",
)


def co_tuning_loss(
    source_logits: Float[Tensor, "batch sources"], labels: Int[Tensor, "batch"], relationship: Float[Tensor, "classes sources"]
) -> Float[Tensor, "batch"]:
    """-sum_s p(s | y) log softmax(z)_s per sample: z what the source's head says of the student's feature, y the target class.

    `relationship` [c, s] is p(s | c), the source classes that a sample of target class c looks like. `paper_weight` is 2.3, the authors'
    for CUB; they choose it per data set on validation. Unlabelled samples (-1) have a value that means nothing, and are masked by the loop.
    """
    log_p = at_least_fp32(source_logits).log_softmax(-1)
    return -(at_least_fp32(relationship)[labels.clamp(min=0)] * log_p).sum(-1)


class CoTuning(nn.Module):
    """Cross-entropy of the source's head, which begins with the start's weights and is trained along, to p(source class | target class).

    p is estimated once before training: the mean over training samples of each class of the start's softmax, which the paper calls the
    direct approach; its code calibrates the start and inverts a logistic regression of p(target | source), for which it needs held-out
    samples of the source. A class without labelled samples among those that are looked at has an even distribution.

    Args:
        samples: how many labelled training samples are looked at; 4096 take one forward pass each.
        temperature: of the start's softmax; above 1 where it is over-confident.
        head: path of the student's head; null: found by a forward pass.
    """

    def __init__(self, samples: Annotated[int, Gt(0)] = 4096, temperature: Annotated[float, Gt(0)] = 1.0, head: str | None = None):
        super().__init__()
        self.samples, self.temperature, self.head = samples, temperature, head
        self.classes = 0
        self.source_head: nn.Module = nn.Identity()
        self.relationship: Tensor

    def set_outputs(self, outputs: int) -> None:
        self.classes = outputs

    def take_head(self, path: str, head: nn.Module) -> None:
        """The student's feature is what its head is given; the head itself is left alone."""

    def meet(self, student: Ending, teacher: Ending) -> None:
        """Takes the start's head.

        Raises:
            ValueError: the student's features are not as wide as the start's.
        """
        if student.inputs.shape[1] != teacher.weight.shape[1]:
            widths = f"{student.inputs.shape[1]} and {teacher.weight.shape[1]}"
            raise ValueError(f"features of widths {widths}; the student has to be the network that the source's head belongs to")
        sources, width = teacher.weight.shape
        self.source_head = nn.Linear(width, sources)
        with torch.no_grad():
            self.source_head.weight.copy_(teacher.weight)
            self.source_head.bias.copy_(teacher.bias)
        self.register_buffer("relationship", torch.full((max(self.classes, 1), sources), 1 / sources))

    def build(self, student_shapes: Mapping[str, tuple[int, ...]], teacher_shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Nothing depends on shapes; says that features are looked at.

        Raises:
            ValueError: the student has a single output, and the relationship is of one class with another.
        """
        if self.classes < 2:
            raise ValueError("each class is related to the source's, and the student has a single output; give it one per class")

    def probe(self, student: Trial, teacher: Trial | None) -> str:
        """Estimates the relationship on the start's answers.

        Raises:
            ValueError: there is no starting network, or its answers are not the source's classes.
        """
        if teacher is None:
            raise ValueError("the relationship is read from the starting network, and there is none")
        answers, labels = [], []
        with torch.no_grad():
            for inputs, found in teacher.batches(self.samples):
                answers.append(at_least_fp32(teacher.network(inputs)).cpu())
                labels.append(found.cpu())
        self.relate(torch.cat(answers), torch.cat(labels))
        return f"p(source class | class) of {len(self.relationship)} classes, from {sum(map(len, labels)):,} training samples"

    def relate(self, source_logits: Float[Tensor, "samples sources"], labels: Int[Tensor, "samples"]) -> None:
        """Sets the relationship: the mean softmax over the samples of each class.

        Raises:
            ValueError: another number of source classes than the head has.
        """
        if source_logits.shape[1] != self.relationship.shape[1]:
            raise ValueError(f"{source_logits.shape[1]} source classes, and the source's head has {self.relationship.shape[1]}")
        p = (source_logits / self.temperature).softmax(-1)
        for label in labels.unique().tolist():
            self.relationship[label] = p[labels == label].mean(0).to(self.relationship)

    def forward(self, step: Step) -> Tensor:
        features = vectors(last_tap(step.student, "student"))
        return co_tuning_loss(self.source_head(features), step.batch.labels, self.relationship)
