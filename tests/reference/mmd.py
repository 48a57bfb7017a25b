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


def ring_estimate(source, target, kernel):
    """The authors' linear-time estimate: each sample with the one behind it, the last with the first."""
    count = min(len(source), len(target))
    total = 0.0
    for i in range(count):
        s, following_s, t, following_t = source[i], source[(i + 1) % count], target[i], target[(i + 1) % count]
        total += kernel(s, following_s) + kernel(t, following_t) - kernel(s, following_t) - kernel(following_s, t)
    return total / count


def estimate(source, target, kernel, estimator):
    if estimator == "linear":
        return ring_estimate(source, target, kernel)

    def within(rows):
        pairs = [kernel(one, other) for i, one in enumerate(rows) for j, other in enumerate(rows) if estimator == "biased" or i != j]
        return sum(pairs) / len(pairs)

    across = [kernel(one, other) for one in source for other in target]
    return within(source) + within(target) - 2 * sum(across) / len(across)


def mmd_reference(student_features, domains, estimator):
    rows = pooled(student_features)
    return estimate(*split(rows, domains), feature_kernel(rows), estimator)
