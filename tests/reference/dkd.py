"""Decoupled knowledge distillation: Zhao et al. (2022), equations 1, 2 and 7."""

from tests.reference.distributions import kl, softmax


def dkd_reference(student_logits, teacher_logits, labels, alpha, beta, temperature):
    values = []
    for student, teacher, label in zip(student_logits, teacher_logits, labels, strict=True):
        p, q = softmax(teacher, temperature), softmax(student, temperature)
        others = [c for c in range(len(p)) if c != label]
        target_part = kl([p[label], sum(p[c] for c in others)], [q[label], sum(q[c] for c in others)])
        other_part = kl([p[c] / sum(p[d] for d in others) for c in others], [q[c] / sum(q[d] for d in others) for c in others])
        values.append(temperature**2 * (alpha * target_part + beta * other_part))
    return values
