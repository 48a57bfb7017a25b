"""Distributions in plain Python, for the references of everything that compares predictions."""

import math


def softmax(logits, temperature=1.0):
    top = max(logits)
    exponentials = [math.exp((logit - top) / temperature) for logit in logits]
    return [value / sum(exponentials) for value in exponentials]


def sigmoid(logit):
    return 1 / (1 + math.exp(-logit))


def predictions(logits, labels, temperature):
    """The distributions that a row of logits stands for: one over all classes, or yes and no for each where labels are floats."""
    if labels.dtype.kind == "f":
        return [[sigmoid(logit / temperature), sigmoid(-logit / temperature)] for logit in logits]
    return [softmax(logits, temperature)]


def kl(p, q):
    return sum(p[c] * math.log(p[c] / q[c]) for c in range(len(p)) if p[c] > 0)


def summed(measure, student_logits, teacher_logits, labels, temperature):
    """Per sample, the sum of measure(p, q) over the distributions of its prediction, p the teacher's."""
    values = []
    for student, teacher in zip(student_logits, teacher_logits, strict=True):
        pairs = zip(predictions(teacher, labels, temperature), predictions(student, labels, temperature), strict=True)
        values.append(sum(measure(p, q) for p, q in pairs))
    return values
