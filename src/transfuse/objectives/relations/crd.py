"""Contrastive representation distillation: the student's embedding finds its teacher's among those of other samples."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from jaxtyping import Bool, Float
from torch import Tensor, nn

from transfuse.core.bridges import channels_of
from transfuse.core.card import Card
from transfuse.core.ranks import gather_rows
from transfuse.core.types import Batch, Step, float_labels
from transfuse.objectives._vectors import last_tap, unit, vectors

Negatives = Literal["samples", "classes"]
Form = Literal["code", "paper"]
CARD = Card(
    title="Contrastive representation distillation (CRD)",
    paper="Tian, Krishnan, Isola, 2020, ICLR",
    link="https://arxiv.org/abs/1910.10699",
    level="sample",
    needs=("teacher.features", "sample_ids"),
    paper_weight=0.8,
    tasks=("classification", "multilabel", "regression"),
    cost="two banks of bank_size x dimensions numbers (17 MB by default), two products [batch, dimensions] x [dimensions, bank_size]",
)
LOOKS = 100  # steps in which negatives are looked for to measure the constant; only the device knows whether a batch has any


def crd_loss(
    student_embeddings: Float[Tensor, "batch dimensions"],
    teacher_embeddings: Float[Tensor, "batch dimensions"],
    student_bank: Float[Tensor, "bank dimensions"],
    teacher_bank: Float[Tensor, "bank dimensions"],
    negatives: Bool[Tensor, "batch bank"],
    constants: Float[Tensor, "2"],
    temperature: float = 0.07,
) -> Float[Tensor, "batch"]:
    """-log h(s_i, t_i) - sum_j log(1 - h(s_i, T_j)), and the same with student and teacher in each other's place, per sample.

    h(a, b) = e / (e + N_i k) with e = exp(a . b / temperature), N_i the number of i's negatives j, and k one constant per direction.
    Embeddings are unit vectors; T and S are the banks. In the log domain throughout.
    """
    forwards = _contrast(student_embeddings, teacher_embeddings, teacher_bank, negatives, constants[0], temperature)
    return forwards + _contrast(teacher_embeddings, student_embeddings, student_bank, negatives, constants[1], temperature)


def _contrast(
    anchors: Tensor, positives: Tensor, bank: Tensor, negatives: Tensor, constant: Tensor, temperature: float
) -> Float[Tensor, "batch"]:
    log_noise = negatives.sum(1).clamp(min=1).to(anchors.dtype).log() + constant.log()
    positive = F.logsigmoid((anchors * positives).sum(1) / temperature - log_noise)
    negative = F.logsigmoid(log_noise[:, None] - anchors @ bank.T / temperature)
    return -positive - torch.where(negatives, negative, 0.0).sum(1)


class CRD(nn.Module):
    """Contrast of the deepest tapped features, embedded by a trained linear map each, with a memory of other samples' embeddings.

    What differs from the paper and its code, and why: every sample is contrasted with the whole bank by one matrix product, instead of
    with its own random draw of 16384 rows of a memory as large as the data set: leaner, without random numbers, and the bank's size is the
    user's. A sample's place is its id modulo bank_size, so a bank as large as the data is the paper's memory; in a smaller one later
    samples replace earlier ones. The positive is the current embedding (as in the paper), not the remembered one (as in the code). The
    bank starts empty, not with random vectors. Banks are buffers, equal on all processes, and change in training mode only; nothing in a
    step waits for the device.

    Args:
        dimensions: of the embeddings.
        temperature: of the critic.
        bank_size: how many samples are remembered.
        momentum: how much of a remembered embedding stays when its sample comes again.
        negatives: samples takes all others; classes only those of other classes, the authors' default, for which labels have to be class
            numbers (an unlabelled sample is of no class).
        form: code divides the critic's exponentials by their mean on the first batch that has negatives, held from then on; the published
            results come from it. paper takes k = 1 / bank_size, the noise of a draw from as many samples.
    """

    def __init__(
        self,
        dimensions: Annotated[int, Ge(1)] = 128,
        temperature: Annotated[float, Gt(0)] = 0.07,
        bank_size: Annotated[int, Ge(2)] = 16384,
        momentum: Annotated[float, Ge(0), Lt(1)] = 0.5,
        negatives: Negatives = "samples",
        form: Form = "code",
    ):
        super().__init__()
        self.dimensions, self.temperature, self.bank_size, self.momentum = dimensions, temperature, bank_size, momentum
        self.negatives: Negatives = negatives
        self.form: Form = form
        self.student_embedding: nn.Module = nn.Identity()
        self.teacher_embedding: nn.Module = nn.Identity()
        self.student_bank: Tensor
        self.teacher_bank: Tensor
        self.owners: Tensor
        self.owner_labels: Tensor
        self.constants: Tensor
        # one row more than the bank has: what loses its place to another sample of the same batch is written there
        self.register_buffer("student_bank", torch.zeros(bank_size + 1, dimensions))
        self.register_buffer("teacher_bank", torch.zeros(bank_size + 1, dimensions))
        self.register_buffer("owners", torch.full((bank_size + 1,), -1))
        self.register_buffer("owner_labels", torch.full((bank_size + 1,), -1))
        self.register_buffer("constants", torch.zeros(2))  # 0: not measured yet
        self._looks = 0

    def build(self, student_shapes: Mapping[str, tuple[int, ...]], teacher_shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Makes the embeddings.

        Raises:
            ValueError: nothing is tapped.
        """
        if not student_shapes or not teacher_shapes:
            raise ValueError("no feature is tapped; name student_tap and teacher_tap, usually the last features")
        shapes = [list(found.values())[-1] for found in (student_shapes, teacher_shapes)]
        self.student_embedding, self.teacher_embedding = (nn.Linear(channels_of(shape), self.dimensions) for shape in shapes)

    def forward(self, step: Step) -> Tensor:
        student = unit(self.student_embedding(vectors(last_tap(step.student, "student"))))
        teacher = unit(self.teacher_embedding(vectors(last_tap(step.teacher, "teacher").detach())))
        labels = self._labels(step.batch)
        if self.training:
            self._remember(step.batch.ids, labels, student.detach(), teacher.detach())
        constants = self.constants if self.form == "code" else torch.full_like(self.constants, 1 / self.bank_size)
        constants = torch.where(constants > 0, constants, 1.0)
        banks = self.student_bank[:-1], self.teacher_bank[:-1]
        return crd_loss(student, teacher, *banks, self._allowed(step.batch.ids, labels), constants, self.temperature)

    def _labels(self, batch: Batch) -> Tensor:
        if not float_labels(batch.labels):
            return batch.labels
        if self.negatives == "classes":
            raise ValueError("negatives: classes needs one class number per sample, and these labels are floats; use negatives: samples")
        return torch.full_like(batch.ids, -1)

    def _allowed(self, ids: Tensor, labels: Tensor) -> Bool[Tensor, "batch bank"]:
        owners, owner_labels = self.owners[:-1], self.owner_labels[:-1]
        allowed = (owners >= 0) & (owners != ids[:, None])
        if self.negatives == "classes":
            allowed = allowed & ((owner_labels != labels[:, None]) | (labels[:, None] < 0))
        return allowed

    @torch.no_grad()
    def _remember(self, ids: Tensor, labels: Tensor, student: Tensor, teacher: Tensor) -> None:
        # before the contrast: autograd forbids changing a bank after it, and the batch's other samples are negatives at once
        ids, labels, student, teacher = (gather_rows(rows) for rows in (ids, labels, student, teacher))
        places = ids % self.bank_size
        taken = torch.triu(places[:, None] == places[None, :], diagonal=1).any(1)  # by a later sample of this batch
        places = torch.where(taken, self.bank_size, places)
        known = (self.owners[places] == ids)[:, None]
        for bank, rows in ((self.student_bank, student), (self.teacher_bank, teacher)):
            mixed = unit(self.momentum * bank[places] + (1 - self.momentum) * rows)
            bank.index_copy_(0, places, torch.where(known, mixed, rows))
            bank[-1] = 0  # equal bits, whichever of several losers was written last
        self.owners.index_copy_(0, places, ids)
        self.owner_labels.index_copy_(0, places, labels)
        self.owners[-1], self.owner_labels[-1] = -1, -1
        if self._looks < LOOKS:
            self._measure(self._allowed(ids, labels), student, teacher)
            self._looks += 1

    def _measure(self, allowed: Tensor, student: Tensor, teacher: Tensor) -> None:
        pairs = ((student, self.teacher_bank), (teacher, self.student_bank))
        scores = torch.stack([torch.exp(anchors @ bank[:-1].T / self.temperature) for anchors, bank in pairs])
        means = torch.where(allowed, scores, 0.0).sum((1, 2)) / allowed.sum().clamp(min=1)
        # a mean over no pairs is 0, which is not measured; a batch before this one, or before a run was resumed, may have been measured
        self.constants.copy_(torch.where(self.constants > 0, self.constants, means))
