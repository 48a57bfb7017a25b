"""Relational distillation: Park et al. (2019), equations 5 to 10, means in place of sums."""

from tests.reference.geometry import cosine, length, minus, pooled, smooth_l1


def distances(rows):
    found = [[length(minus(one, other)) for other in rows] for one in rows]
    pairs = [found[i][j] for i in range(len(rows)) for j in range(len(rows)) if i != j]
    mean = sum(pairs) / len(pairs)
    return [[value / mean for value in row] for row in found]


def rkd_reference(student_features, teacher_features, distance, angle):
    student, teacher = pooled(student_features), pooled(teacher_features)
    batch = range(len(student))
    d_student, d_teacher = distances(student), distances(teacher)
    by_distance = sum(smooth_l1(d_student[i][j], d_teacher[i][j]) for i in batch for j in batch) / len(batch) ** 2
    by_angle = 0.0
    for j in batch:
        for i in batch:
            for k in batch:
                a_student = cosine(minus(student[i], student[j]), minus(student[k], student[j]))
                a_teacher = cosine(minus(teacher[i], teacher[j]), minus(teacher[k], teacher[j]))
                by_angle += smooth_l1(a_student, a_teacher)
    return distance * by_distance + angle * by_angle / len(batch) ** 3
