"""KL from student to teacher, the other way round than kd."""

from tests.reference.distributions import kl, summed


def reverse_kl_reference(student_logits, teacher_logits, labels, temperature):
    return [temperature**2 * value for value in summed(lambda p, q: kl(q, p), student_logits, teacher_logits, labels, temperature)]
