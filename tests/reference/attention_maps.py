"""Attention maps: Wang et al. (2020), equation 5, and mean squares as in Jiao et al. (2020), equation 7."""

import math


def attention_maps_reference(student_features, teacher_features, distance, heads):
    values = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        if heads == "mean":
            student, teacher = student.mean(0, keepdims=True), teacher.mean(0, keepdims=True)
        value, rows = 0.0, 0
        for head in range(len(teacher)):
            for s, t in zip(student[head], teacher[head], strict=True):
                if distance == "kl":
                    value += sum(p * math.log(p / q) for p, q in zip(t, s, strict=True))
                else:
                    value += sum((p - q) ** 2 for p, q in zip(t, s, strict=True)) / len(t)
                rows += 1
        values.append(value / rows)
    return values
