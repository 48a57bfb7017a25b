"""Weighted soft labels: Zhou et al. (2021), equation 9, the divergence as a KL."""

import math

from tests.reference.distributions import kl, softmax


def wsld_reference(student_logits, teacher_logits, labels, temperature):
    values = []
    for student, teacher, label in zip(student_logits, teacher_logits, labels, strict=True):
        student_loss, teacher_loss = -math.log(softmax(student)[label]), -math.log(softmax(teacher)[label])
        weight = 1 - math.exp(-student_loss / (teacher_loss + 1e-7))
        values.append(weight * temperature**2 * kl(softmax(teacher, temperature), softmax(student, temperature)))
    return values
