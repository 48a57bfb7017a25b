"""Probabilistic knowledge transfer: Passalis and Tefas (2018), equations 5 and 8; with the diagonal as in their code, or without."""

import math

from tests.reference.geometry import cosine, pooled


def neighbours(rows, form):
    matrix = []
    for i, one in enumerate(rows):
        kernel = [0.0 if form == "paper" and i == j else (cosine(one, other) + 1) / 2 for j, other in enumerate(rows)]
        matrix.append([value / sum(kernel) for value in kernel])
    return matrix


def pkt_reference(student_features, teacher_features, form):
    p, q = neighbours(pooled(teacher_features), form), neighbours(pooled(student_features), form)
    batch = len(p)
    total = sum(p[i][j] * math.log((p[i][j] + 1e-7) / (q[i][j] + 1e-7)) for i in range(batch) for j in range(batch))
    return total / batch**2
