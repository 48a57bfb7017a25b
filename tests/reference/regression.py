"""Losses of regression targets, averaged over the known ones."""

import math


def mean_over_known(term, student_logits, labels):
    values = []
    for student, row in zip(student_logits, labels, strict=True):
        terms = [term(student[k] - target) for k, target in enumerate(row) if not math.isnan(target)]
        values.append(sum(terms) / max(len(terms), 1))
    return values


def mse_reference(student_logits, labels):
    return mean_over_known(lambda error: error**2, student_logits, labels)


def huber_reference(student_logits, labels, delta):
    def term(error):
        return error**2 / 2 if abs(error) <= delta else delta * (abs(error) - delta / 2)

    return mean_over_known(term, student_logits, labels)
