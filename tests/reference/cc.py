"""Correlation congruence: Peng et al. (2019), equations 5 to 8, on unit vectors."""

import math

from tests.reference.geometry import cosine, pooled


def correlation(cosine_of_pair, kernel, gamma, order):
    if kernel == "bilinear":
        return cosine_of_pair
    if order is None:
        return math.exp(-gamma * (2 - 2 * cosine_of_pair))  # |x - y|^2 of unit vectors
    series = sum((2 * gamma) ** p / math.factorial(p) * cosine_of_pair**p for p in range(order + 1))
    return math.exp(-2 * gamma) * series


def cc_reference(student_features, teacher_features, kernel, gamma, order):
    student, teacher = pooled(student_features), pooled(teacher_features)
    batch, total = len(student), 0.0
    for i in range(batch):
        for j in range(batch):
            k_student = correlation(cosine(student[i], student[j]), kernel, gamma, order)
            k_teacher = correlation(cosine(teacher[i], teacher[j]), kernel, gamma, order)
            total += (k_student - k_teacher) ** 2
    return total / batch**2
