"""Logit standardisation: Sun et al. (2024), algorithm 1; the deviation as in their code or as in their text."""

import math

from tests.reference.distributions import kl, softmax


def standardised(logits, deviation):
    n = len(logits)
    mean = sum(logits) / n
    spread = math.sqrt(sum((logit - mean) ** 2 for logit in logits) / (n - 1 if deviation == "sample" else n))
    return [(logit - mean) / (spread + 1e-7) for logit in logits]


def logit_standard_reference(student_logits, teacher_logits, temperature, deviation):
    values = []
    for student, teacher in zip(student_logits, teacher_logits, strict=True):
        p, q = (softmax(standardised(logits, deviation), temperature) for logits in (teacher, student))
        values.append(temperature**2 * kl(p, q))
    return values
