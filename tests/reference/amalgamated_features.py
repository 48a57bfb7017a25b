"""Amalgamation of features: common feature learning (Luo et al., 2019) and layer-wise (Shen et al., 2019), as slow loops."""

import math

from tests.reference.fusion import linear
from tests.reference.geometry import pooled
from tests.reference.mmd import estimate, feature_kernel


def at_length(row, length):
    size = math.sqrt(sum(float(x) ** 2 for x in row))
    return [length * float(x) / size if size else 0.0 for x in row]


def two_layers(row, state, name):
    hidden = [max(0.0, x) for x in linear(row, state[f"{name}.0.weight"], state[f"{name}.0.bias"])]
    return linear(hidden, state[f"{name}.2.weight"], state[f"{name}.2.bias"])


def teachers_rows(teachers_features):
    """Per teacher and sample, the feature averaged over positions, at the length of the root of its width."""
    return [[at_length(row, math.sqrt(len(row))) for row in pooled(feature)] for feature in teachers_features]


def squared_error(one, other):
    return sum((x - y) ** 2 for x, y in zip(one, other, strict=True)) / len(one)


def common_features_reference(student_features, teachers_features, state, reconstruction):
    student = [at_length(two_layers(row, state, "of_student"), 1.0) for row in pooled(student_features)]
    values = []
    for place, rows in enumerate(teachers_rows(teachers_features)):
        common = [two_layers(row, state, f"of_teachers.{place}") for row in rows]
        rebuilt = [two_layers(row, state, f"rebuild.{place}") for row in common]
        units = [at_length(row, 1.0) for row in common]
        distance = estimate(student, units, feature_kernel(student + units), "biased")
        error = sum(squared_error(row, again) for row, again in zip(rows, rebuilt, strict=True)) / len(rows)
        values.append(distance + reconstruction * error)
    return sum(values) / len(values)


def layer_amalgamation_reference(student_features, teachers_features, state, reconstruction):
    values = []
    for student, *rows in zip(pooled(student_features), *teachers_rows(teachers_features), strict=True):
        code = linear([x for row in rows for x in row], state["encode.weight"], state["encode.bias"])
        again = iter(linear(code, state["decode.weight"], state["decode.bias"]))
        errors = [squared_error(row, [next(again) for _ in row]) for row in rows]
        learnt = squared_error(linear(student, state["of_student.weight"], state["of_student.bias"]), code)
        values.append(learnt + reconstruction * sum(errors) / len(errors))
    return values
