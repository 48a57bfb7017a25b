"""PKD: Sun et al. (2019), equation 7, by the cosine of two states."""

from tests.reference.features import length


def hidden_cosine_reference(student_features, teacher_features, tokens, distance):
    def distance_of(one, other):
        cosine = sum(float(a) * float(b) for a, b in zip(one, other, strict=True)) / (length(one) * length(other))
        return 2 - 2 * cosine if distance == "squared" else 1 - cosine

    values = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        if tokens == "first":
            values.append(distance_of(student[0], teacher[0]))
        elif tokens == "mean":
            values.append(distance_of(student.mean(0), teacher.mean(0)))
        else:
            values.append(sum(distance_of(s, t) for s, t in zip(student, teacher, strict=True)) / len(student))
    return values
