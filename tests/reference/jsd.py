"""Generalised Jensen-Shannon divergence: Agarwal et al. (2024), equation 1."""

from tests.reference.distributions import kl, summed


def jsd_reference(student_logits, teacher_logits, labels, beta, temperature, normalised):
    def measure(p, q):
        middle = [beta * p[c] + (1 - beta) * q[c] for c in range(len(p))]
        return beta * kl(p, middle) + (1 - beta) * kl(q, middle)

    scale = temperature**2 / (beta * (1 - beta)) if normalised else temperature**2
    return [scale * value for value in summed(measure, student_logits, teacher_logits, labels, temperature)]
