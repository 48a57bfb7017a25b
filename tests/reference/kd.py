"""Soft targets: Hinton, Vinyals, Dean (2015), section 2, as a Kullback-Leibler divergence times T squared."""

from tests.reference.distributions import kl, summed


def kd_reference(student_logits, teacher_logits, labels, temperature):
    return [temperature**2 * value for value in summed(kl, student_logits, teacher_logits, labels, temperature)]
