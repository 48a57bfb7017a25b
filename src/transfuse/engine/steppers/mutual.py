"""Networks that learn side by side and from each other: the student and its co-trained peers, in one step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.protocols import Teacher
from transfuse.core.types import Batch, Signals, Step, Term, WeightedObjective
from transfuse.engine.precision import autocast
from transfuse.engine.steppers.supervised import Supervised

STUDENT, ALL = "student", "all"
_PEERS_HAVE = {"labels", "hard_labels", "peers"}


@dataclass
class Peer:
    """A network that learns beside the student.

    Attributes:
        network: logits out.
        preprocess: from the shared raw view to its inputs.
    """

    network: nn.Module
    preprocess: Callable[[Tensor], Tensor]


class Cohort(nn.Module):
    """Student and peers as one network, which answers as the student.

    So whatever a loop does with a student (validate it, average its weights and statistics, keep the best, save it) it does with the
    peers as well, and by the student's validation: peers are kept as they were when the student was best.

    Args:
        student: the network that is shipped.
        peers: by name.
        alternate: whether the networks are updated one after the other.
    """

    def __init__(self, student: nn.Module, peers: Mapping[str, Peer], alternate: bool = False):
        super().__init__()
        self.student = student
        self.peers = nn.ModuleList([peer.network for peer in peers.values()])
        self.names, self.alternate = tuple(peers), alternate
        self.preprocesses = tuple(peer.preprocess for peer in peers.values())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.student(inputs)


def peers_learn(card: Card) -> bool:
    """Whether an objective is a peer's too: labels and mutual learning are; teachers, taps and other views are the student's alone."""
    return set(card.needs) <= _PEERS_HAVE and (not card.transfers or "peers" in card.needs)


class Mutual(Supervised):
    """The step of mutual learning (Zhang, Xiang, Hospedales, Lu, 2018, CVPR, https://arxiv.org/abs/1706.00384).

    The student has all of the recipe's terms. Each peer has the label terms and those that learn from peers, with the same weights, in
    copies of its own: their names are "peer NAME.TERM". What a network is told by the others carries no gradient, so each one is moved by
    its own terms alone.

    In one phase, the default, all networks are updated at once from one forward pass each. Alternating, as in the paper's algorithm 1,
    has one phase per network, the student first: all networks are asked anew about the batch, and one is updated. BatchNorm's running
    statistics take in a batch once, in a network's own phase.

    Args:
        student: the cohort.
        preprocess: from the shared raw view to the student's inputs.
        objectives: the student's terms.
        teachers: the student's, by name.
        precision: fp32, bf16 or fp16, of all networks.
        channels_last: memory layout of 4-D inputs.
        forward: what is called for the student's forward pass; peers run without torch.compile.
        second: the same samples in another view, for the student's objectives that need two.
    """

    student: Cohort

    def __init__(
        self,
        student: Cohort,
        preprocess: Callable[[Tensor], Tensor],
        objectives: Sequence[WeightedObjective],
        teachers: Mapping[str, Teacher] | None = None,
        precision: str = "fp32",
        channels_last: bool = False,
        forward: Callable[[Tensor], Tensor] | None = None,
        second: Callable[[Batch], Batch] | None = None,
    ):
        super().__init__(student, preprocess, objectives, teachers, precision, channels_last, forward, second)
        shared = [weighted for weighted in objectives if peers_learn(weighted.card)]
        self._learners = {STUDENT: tuple(objectives)} | {
            f"peer {name}": tuple(_copied(weighted, f"peer {name}") for weighted in shared) for name in student.names
        }
        self.peers_objectives = nn.ModuleList(
            nn.ModuleList(weighted.objective for weighted in terms) for learner, terms in self._learners.items() if learner != STUDENT
        )

    def network(self) -> nn.Module:
        return self.student.student

    def phases(self) -> list[str]:
        return [learner for learner, terms in self._learners.items() if terms] if self.student.alternate else [ALL]

    def trains(self, phase: str) -> Collection[nn.Parameter] | None:
        return None if phase == ALL else [parameter for module in self._owned(phase) for parameter in module.parameters()]

    def clipped(self) -> list[list[nn.Module]]:
        """Every network with its objectives: each has a gradient of its own, so each is clipped by its own norm."""
        return [self._owned(learner) for learner in self._learners]

    def batch_level(self) -> list[str]:
        return [weighted.name for terms in self._learners.values() for weighted in terms if weighted.card.level == "batch"]

    def defined(self, batch: Batch) -> dict[str, Tensor | None]:
        found = super().defined(batch)
        for learner, terms in self._learners.items():
            if learner != STUDENT:  # peers ask no teacher, so what holds for the student's term holds for theirs
                found |= {weighted.name: found[weighted.name.removeprefix(f"{learner}.")] for weighted in terms}
        return found

    def terms(self, batch: Batch, phase: str, progress: float) -> list[Term]:
        learning = [learner for learner in self._learners if phase in (ALL, learner) and self._learners[learner]]
        related = any("peers" in weighted.card.needs for learner in learning for weighted in self._learners[learner])
        wanted = self._learners if related else learning
        steps = {learner: self._asked(learner, batch, progress, learner in learning) for learner in wanted}
        masks = self.defined(batch)
        found: list[Term] = []
        for learner in learning:
            others = {other.removeprefix("peer "): step.student.detach() for other, step in steps.items() if other != learner}
            step = replace(steps[learner], peers=others)
            if learner == STUDENT:
                found += self._students_terms(step, masks)
            else:
                found += [self._term(weighted, step, masks[weighted.name]) for weighted in self._learners[learner]]
        return found

    def _owned(self, learner: str) -> list[nn.Module]:
        """A network and the objectives that are trained with it."""
        if learner == STUDENT:
            return [self.network(), self.objectives]
        number = list(self._learners).index(learner) - 1
        return [self.student.peers[number], self.peers_objectives[number]]

    def _asked(self, learner: str, batch: Batch, progress: float, learns: bool) -> Step:
        """A network's forward pass, with a gradient where it learns in this phase; only then are the student's teachers asked."""
        network = self._owned(learner)[0]
        with nullcontext() if learns else _unchanged(network):
            if learner == STUDENT:
                return self._look(batch, self._weighted if learns else (), progress)
            inputs = self._prepared(batch, self.student.preprocesses[list(self._learners).index(learner) - 1])
            with autocast(self._precision, inputs.device):
                logits = network(inputs)
            return Step(batch, Signals(at_least_fp32(logits)), progress=progress)


@contextmanager
def _unchanged(network: nn.Module) -> Iterator[None]:
    """No gradient, and running statistics as they were: the network is only asked."""
    kept = [buffer.clone() for buffer in network.buffers()]
    with torch.no_grad():
        yield
        for buffer, value in zip(network.buffers(), kept, strict=True):
            buffer.copy_(value)


def _copied(weighted: WeightedObjective, learner: str) -> WeightedObjective:
    return replace(weighted, name=f"{learner}.{weighted.name}", objective=copy.deepcopy(weighted.objective))
