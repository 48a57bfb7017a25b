"""Minimum class confusion: Jin et al. (2020), equations 2 to 7."""

import math

from tests.reference.domains import entropy_of, softmax, split


def mcc_reference(student_logits, domains, temperature):
    p = [softmax(logits, temperature) for logits in split(student_logits, domains)[1]]
    if not p:
        return 0.0
    raw = [1 + math.exp(-entropy_of(row)) for row in p]
    weights = [len(p) * value / sum(raw) for value in raw]
    classes = len(p[0])
    confusion = [[sum(w * row[j] * row[k] for w, row in zip(weights, p, strict=True)) for k in range(classes)] for j in range(classes)]
    normal = [[value / sum(row) for value in row] for row in confusion]
    return sum(normal[j][k] for j in range(classes) for k in range(classes) if j != k) / classes
