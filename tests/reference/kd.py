"""Soft targets as a loop: Hinton, Vinyals, Dean (2015), section 2, as a Kullback-Leibler divergence times T squared."""

import math


def kd_reference(student_logits, teacher_logits, temperature):
    values = []
    for student, teacher in zip(student_logits, teacher_logits, strict=True):
        p, q = softmax(teacher, temperature), softmax(student, temperature)
        values.append(temperature**2 * sum(p[c] * math.log(p[c] / q[c]) for c in range(len(p))))
    return values


def softmax(logits, temperature=1.0):
    top = max(logits)
    exponentials = [math.exp((logit - top) / temperature) for logit in logits]
    return [value / sum(exponentials) for value in exponentials]
