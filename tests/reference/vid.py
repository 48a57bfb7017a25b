"""VID: Ahn et al. (2019), equation 6, with softplus variances (equation 7)."""

import math

import numpy as np

from tests.reference.features import conv, resize


def vid_reference(student_features, teacher_features, state):
    hidden = conv(student_features, state["bridges.0.project.weight"], state["bridges.0.project.bias"])
    hidden = resize(hidden, *teacher_features.shape[2:])
    hidden = conv(np.maximum(hidden, 0), state["heads.0.1.weight"], state["heads.0.1.bias"])
    predicted = conv(np.maximum(hidden, 0), state["heads.0.3.weight"], state["heads.0.3.bias"])
    variances = [math.log1p(math.exp(spread)) + 1e-5 for spread in state["spreads.0"]]
    values = []
    for mean, teacher in zip(predicted, teacher_features, strict=True):
        channels, height, width = teacher.shape
        terms = [
            0.5 * ((teacher[c, i, j] - mean[c, i, j]) ** 2 / variances[c] + math.log(variances[c]))
            for c in range(channels)
            for i in range(height)
            for j in range(width)
        ]
        values.append(sum(terms) / len(terms))
    return values
