"""Maximum mean discrepancy: Gretton et al. (2012), equations 3 and 5, with the sum of Gaussian kernels of Long et al. (2015)."""

import math

from tests.reference.domains import split
from tests.reference.geometry import minus, pooled


def squared(one, other):
    return sum(value**2 for value in minus(one, other))


def feature_kernel(rows):
    pairs = [squared(one, other) for one in rows for other in rows]
    scale = sum(pairs) / len(pairs)
    return lambda one, other: sum(math.exp(-squared(one, other) / (2 * 2.0**power * scale)) for power in (-3, -2, -1, 0, 1))


def estimate(source, target, kernel, estimator):
    def within(rows):
        pairs = [kernel(one, other) for i, one in enumerate(rows) for j, other in enumerate(rows) if estimator == "biased" or i != j]
        return sum(pairs) / len(pairs)

    across = [kernel(one, other) for one in source for other in target]
    return within(source) + within(target) - 2 * sum(across) / len(across)


def mmd_reference(student_features, domains, estimator):
    rows = pooled(student_features)
    return estimate(*split(rows, domains), feature_kernel(rows), estimator)
