"""MGD: Yang et al. (2022), equations 5 and 6, with nothing masked, as in evaluation."""

import numpy as np

from tests.reference.features import conv, resize


def mgd_reference(student_features, teacher_features, state):
    student_features = resize(student_features, *teacher_features.shape[2:])
    hidden = conv(student_features, state["generators.0.0.weight"], state["generators.0.0.bias"], padding=1)
    generated = conv(np.maximum(hidden, 0), state["generators.0.2.weight"], state["generators.0.2.bias"], padding=1)
    return [
        sum(float(g - t) ** 2 for g, t in zip(one.ravel(), other.ravel(), strict=True))
        for one, other in zip(generated, teacher_features, strict=True)
    ]
