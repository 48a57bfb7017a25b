"""FT: Kim et al. (2018), equations 1 to 3; networks of three convolutions with BatchNorm and leaky ReLUs."""

import numpy as np

from tests.reference.features import batch_norm, conv, length, smaller


def network(maps, state, name):
    for layer in (0, 3, 6):
        maps = conv(maps, state[f"{name}.{layer}.weight"], state[f"{name}.{layer}.bias"], padding=1)
        maps = batch_norm(maps, state, f"{name}.{layer + 1}")
        maps = np.where(maps > 0, maps, 0.1 * maps)
    return maps


def ft_reference(student_features, teacher_features, state, norm, form):
    factors, translated = network(teacher_features, state, "encoders.0"), network(student_features, state, "translators.0")
    values = []
    for student, teacher in zip(*smaller(translated, factors), strict=True):
        s, t = student.ravel(), teacher.ravel()
        gaps = [abs(a / length(s) - b / length(t)) ** norm for a, b in zip(s, t, strict=True)]
        values.append(sum(gaps) ** (1 / norm) if form == "paper" else sum(gaps) / len(gaps))
    return values


def paraphrasing_reference(teacher_features, state):
    rebuilt = network(network(teacher_features, state, "encoders.0"), state, "decoders.0")
    values = []
    for sample, teacher in zip(rebuilt, teacher_features, strict=True):
        errors = [(a - b) ** 2 for a, b in zip(sample.ravel(), teacher.ravel(), strict=True)]
        values.append(sum(errors) / len(errors))
    return values
