"""Skew KL and skew reverse KL: Ko et al. (2024), section 3.1."""

from tests.reference.distributions import kl, summed


def skew_kl_reference(student_logits, teacher_logits, labels, skew, direction, temperature):
    def measure(p, q):
        if direction == "reverse":
            p, q = q, p
        return kl(p, [skew * p[c] + (1 - skew) * q[c] for c in range(len(p))])

    return [temperature**2 * value for value in summed(measure, student_logits, teacher_logits, labels, temperature)]
