"""CWD: Shu et al. (2021), equations 3 and 4."""

import math

from tests.reference.distributions import softmax
from tests.reference.features import resize


def cwd_reference(student_features, teacher_features, temperature):
    student_features = resize(student_features, *teacher_features.shape[2:])
    values = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        value = 0.0
        for channel in range(len(teacher)):
            q, p = softmax(student[channel].ravel(), temperature), softmax(teacher[channel].ravel(), temperature)
            value += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        values.append(temperature**2 / len(teacher) * value)
    return values
