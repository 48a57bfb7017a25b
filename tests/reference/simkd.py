"""SimKD: Chen et al. (2022), equation 2, with the bridge of their code as loops; maps of the smaller size."""

import numpy as np

from tests.reference.features import batch_norm, conv, mean_pool


def bridge(feature, state, rectified=True):
    offset = 0 if "bridge.0.weight" in state else 1  # a pooling layer may stand in front
    for number in range(3):
        weight = state[f"bridge.{offset + 3 * number}.weight"]
        if weight.ndim == 2:
            feature = np.array([[sum(w * x for w, x in zip(row, sample, strict=True)) for row in weight] for sample in feature])
        else:
            feature = conv(feature, weight, padding=weight.shape[2] // 2)
        feature = batch_norm(feature, state, f"bridge.{offset + 3 * number + 1}")
        if number < 2 or rectified:
            feature = np.maximum(feature, 0)
    return feature


def simkd_reference(student_features, teacher_features, state, form, rectified=True):
    if student_features.ndim == teacher_features.ndim == 4:
        height, width = (min(student_features.shape[side], teacher_features.shape[side]) for side in (2, 3))
        student_features, teacher_features = mean_pool(student_features, height, width), mean_pool(teacher_features, height, width)
    bridged = bridge(student_features, state, rectified)
    values = []
    for student, teacher in zip(bridged, teacher_features, strict=True):
        squares = [(s - t) ** 2 for s, t in zip(student.ravel(), teacher.ravel(), strict=True)]
        values.append(sum(squares) / len(squares) if form == "mean" else sum(squares))
    return values
