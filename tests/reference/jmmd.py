"""Joint maximum mean discrepancy: Long et al. (2017), equation 8 with kernels of features times kernels of predictions."""

import math

from tests.reference.domains import softmax, split
from tests.reference.geometry import pooled
from tests.reference.mmd import estimate, feature_kernel, squared


def jmmd_reference(student_features, student_logits, domains, prediction_width, estimator):
    rows = pooled(student_features)
    by_features = feature_kernel(rows)
    pairs = list(zip(rows, [softmax(logits) for logits in student_logits], strict=True))

    def kernel(one, other):
        return by_features(one[0], other[0]) * math.exp(-squared(one[1], other[1]) / (2 * prediction_width**2))

    return estimate(*split(pairs, domains), kernel, estimator)
