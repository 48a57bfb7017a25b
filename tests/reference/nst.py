"""NST: Huang and Wang (2017), equations 6 to 9, as sums over pairs of channels."""

import math

from tests.reference.features import length, smaller


def rows(maps):
    return [(channel / length(channel.ravel())).ravel() for channel in maps]


def square_distance(one, other):
    return sum((float(a) - float(b)) ** 2 for a, b in zip(one, other, strict=True))


def nst_reference(student_features, teacher_features, kernel):
    def k(one, other, width):
        if kernel == "gaussian":
            return math.exp(-square_distance(one, other) / (2 * width))
        product = sum(float(a) * float(b) for a, b in zip(one, other, strict=True))
        return product**2 if kernel == "polynomial" else product

    def mean(ones, others, width):
        return sum(k(one, other, width) for one in ones for other in others) / (len(ones) * len(others))

    values = []
    for student, teacher in zip(*smaller(student_features, teacher_features), strict=True):
        x, y = rows(student), rows(teacher)
        width = sum(square_distance(one, other) for one in x for other in y) / (len(x) * len(y))
        values.append(mean(x, x, width) + mean(y, y, width) - 2 * mean(x, y, width))
    return values
