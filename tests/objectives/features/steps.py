"""Steps with features of other kinds than the kit's maps, and ways to change features."""

from dataclasses import replace

import torch
from torch import Tensor

from transfuse.core.types import Step
from transfuse.testing import Sizes, example_step, map_tensors


def token_step(sizes: Sizes) -> Step:
    """One tap per model: [batch, positions, channels]."""
    step = example_step(sizes, taps=1)
    return map_tensors(step, lambda path, tensor: tensor.flatten(2).transpose(1, 2) if tensor.ndim == 4 and "features" in path else tensor)


def wide_step(sizes: Sizes) -> Step:
    """Maps with more channels than positions, other numbers of them in student and teacher."""
    step = example_step(replace(sizes, channels=12, student_spatial=(2, 2), teacher_spatial=(2, 2)), taps=1)
    return with_student_features(step, lambda feature: feature[:, :9])


def other_channels(sizes: Sizes) -> Step:
    """A student with two channels fewer than its teacher."""
    return with_student_features(example_step(sizes, taps=1), lambda feature: feature[:, :-2])


def stages(sizes: Sizes, count: int = 2) -> Step:
    """Several taps, each with half of the height and width of the one before."""
    step = example_step(sizes, taps=count)

    def shrink(path: str, tensor: Tensor) -> Tensor:
        if ".features." not in path:
            return tensor
        number = int(path[-1]) - 1
        return tensor[:, :, : max(1, tensor.shape[2] >> number), : max(1, tensor.shape[3] >> number)]

    return map_tensors(step, shrink)


def with_student_features(step: Step, change) -> Step:
    features = {path: change(feature) for path, feature in step.student.features.items()}
    return replace(step, student=replace(step.student, features=features))


def features_times(*factors: float):
    """The first `len(factors)` of student and teacher features' samples times these; repeated."""

    def change(step: Step) -> Step:
        def scale(path: str, tensor: Tensor) -> Tensor:
            if ".features." not in path:
                return tensor
            scales = torch.tensor(factors, dtype=tensor.dtype).repeat(len(tensor))[: len(tensor)]
            return tensor * scales.view(-1, *[1] * (tensor.ndim - 1))

        return map_tensors(step, scale)

    return change


def student_features_times(factor: float):
    return lambda step: with_student_features(step, lambda feature: factor * feature)


def reverse_channels(step: Step) -> Step:
    """Channels of both models in the opposite order."""
    return map_tensors(step, lambda path, tensor: tensor.flip(1) if ".features." in path else tensor)


def reverse_positions(step: Step) -> Step:
    """Both models' maps, mirrored."""
    return map_tensors(step, lambda path, tensor: tensor.flip(3) if ".features." in path else tensor)
