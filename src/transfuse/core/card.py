"""The card of a method: what it is, where it comes from, what it needs."""

from dataclasses import dataclass
from typing import Literal

Need = Literal[
    "labels",
    "student.features",
    "student.head",
    "student.start",
    "hard_labels",
    "teacher.logits",
    "teacher.logits.dense",
    "teacher.features",
    "teacher.head",
    "teacher.batchnorm",
    "sample_ids",
    "two_views",
    "rotations",
    "domains",
    "peers",
]
Level = Literal["sample", "batch", "parameters"]
TaskName = Literal["classification", "multilabel", "regression"]


@dataclass(frozen=True)
class Card:
    """Facts about one method, as literals, so that listings can read them without importing torch.

    Args:
        title: the name people know it by.
        paper: authors, year, venue.
        link: where to read it.
        level: "sample" (one value per sample), "batch" (a scalar that relates samples) or "parameters".
        needs: what has to be there; a job refuses unmet needs before training.
        paper_weight: the weight that the paper gives this term; what `weight: auto` means.
        tasks: the tasks on which the formula is defined.
        cost: what it costs beyond the student's own step, in words.
        teachers: how many teachers it takes at once, where it asks any.
        decays: whether it takes the place of the optimiser's weight decay, which is then 0 unless the recipe gives another than the usual.
    """

    title: str
    paper: str = ""
    link: str = ""
    level: Level = "sample"
    needs: tuple[Need, ...] = ()
    paper_weight: float = 1.0
    tasks: tuple[TaskName, ...] = ("classification",)
    cost: str = ""
    teachers: Literal["one", "several"] = "one"
    decays: bool = False

    @property
    def transfers(self) -> bool:
        """Whether it takes from more than labels (a teacher, peers, pretrained weights, another domain); the control does without."""
        return self.level == "parameters" or any(need.startswith("teacher.") or need in ("domains", "peers") for need in self.needs)

    @property
    def asks_teachers(self) -> bool:
        """Whether the method looks at a teacher's signals."""
        return any(need.startswith("teacher.") for need in self.needs)
