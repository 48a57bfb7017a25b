"""The rows that relations are taken among: first taps of student and teacher, from all processes."""

from torch import Tensor

from transfuse.core.ranks import gather_rows
from transfuse.core.types import Step
from transfuse.objectives._vectors import last_tap, vectors


def all_features(step: Step) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's deepest tapped feature, whole, for the batch of all processes."""
    return gather_rows(last_tap(step.student, "student")), gather_rows(last_tap(step.teacher, "teacher").detach())


def all_vectors(step: Step) -> tuple[Tensor, Tensor]:
    """The same as one vector per sample, which is what processes send each other."""
    student, teacher = vectors(last_tap(step.student, "student")), vectors(last_tap(step.teacher, "teacher").detach())
    return gather_rows(student), gather_rows(teacher)


def require_samples(features: Tensor, least: int, why: str) -> None:
    """
    Raises:
        ValueError: there are too few samples to relate to each other.
    """
    if len(features) < least:
        raise ValueError(f"the batch has {len(features)} samples, and {why}; use batches of {least} or more")
