"""Normalised knowledge distillation: Yang et al. (2023), equation 6; with_label: a state of the authors' code."""

import math

from tests.reference.distributions import softmax


def nkd_reference(student_logits, teacher_logits, labels, gamma, temperature, others):
    values = []
    for student, teacher, label in zip(student_logits, teacher_logits, labels, strict=True):
        value = -softmax(teacher)[label] * math.log(softmax(student)[label])
        among = [c for c in range(len(teacher)) if c != label or others == "with_label"]
        p, q = (softmax([logits[c] for c in among], temperature) for logits in (teacher, student))
        values.append(value - gamma * temperature**2 * sum(p[c] * math.log(q[c]) for c in range(len(among))))
    return values
