"""DIST: Huang et al. (2022), equations 6 to 10."""

import math

from tests.reference.distributions import softmax


def pearson(one, other):
    n = len(one)
    mean_one, mean_other = sum(one) / n, sum(other) / n
    covariance = sum((one[i] - mean_one) * (other[i] - mean_other) for i in range(n))
    spreads = math.sqrt(sum((x - mean_one) ** 2 for x in one)) * math.sqrt(sum((x - mean_other) ** 2 for x in other))
    return covariance / spreads


def dist_reference(student_logits, teacher_logits, inter, intra, temperature):
    q = [softmax(row, temperature) for row in student_logits]
    p = [softmax(row, temperature) for row in teacher_logits]
    samples, classes = len(p), len(p[0])
    rows = sum(1 - pearson(p[i], q[i]) for i in range(samples)) / samples if inter else 0
    columns = 0
    if intra:
        columns = sum(1 - pearson([p[i][c] for i in range(samples)], [q[i][c] for i in range(samples)]) for c in range(classes)) / classes
    return temperature**2 * (inter * rows + intra * columns)
