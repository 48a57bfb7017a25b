"""Similarity-preserving: Tung and Mori (2019), equations 2 to 4."""

from tests.reference.geometry import dot, length


def similarities(features):
    flat = [sample.reshape(-1) for sample in features]
    matrix = [[dot(one, other) for other in flat] for one in flat]
    return [[value / length(row) for value in row] for row in matrix]


def sp_reference(student_features, teacher_features):
    student, teacher = similarities(student_features), similarities(teacher_features)
    batch = len(student)
    return sum((student[i][j] - teacher[i][j]) ** 2 for i in range(batch) for j in range(batch)) / batch**2
