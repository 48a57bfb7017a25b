"""Normalised knowledge distillation: Yang et al. (2023), equation 6."""

import math

from tests.reference.distributions import softmax


def nkd_reference(student_logits, teacher_logits, labels, gamma, temperature):
    values = []
    for student, teacher, label in zip(student_logits, teacher_logits, labels, strict=True):
        value = -softmax(teacher)[label] * math.log(softmax(student)[label])
        others = [c for c in range(len(teacher)) if c != label]
        p, q = (softmax([logits[c] for c in others], temperature) for logits in (teacher, student))
        values.append(value - gamma * temperature**2 * sum(p[c] * math.log(q[c]) for c in range(len(others))))
    return values
