"""Curriculum temperature: Li et al. (2023), equations 5 and 6, one temperature for all samples."""

import math

from tests.reference.distributions import kl, softmax


def ctkd_reference(student_logits, teacher_logits, state, lowest, span):
    temperature = lowest + span / (1 + math.exp(-float(state["raw"])))
    return [
        temperature**2 * kl(softmax(teacher, temperature), softmax(student, temperature))
        for student, teacher in zip(student_logits, teacher_logits, strict=True)
    ]
