"""Adaptive feature norm: Xu et al. (2019), equations 4 and 6."""

from tests.reference.domains import mean, split
from tests.reference.geometry import length, pooled


def afn_reference(student_features, domains, form, increase, radius):
    value = 0.0
    for rows in split(pooled(student_features), domains):
        norms = [length(row) for row in rows]
        if form == "hard":
            value += (mean(norms) - radius) ** 2
        else:
            value += mean([(norm - (norm + increase)) ** 2 for norm in norms])
    return value
