"""OFD: Heo et al. (2019), equations 3, 4 and 6."""

from tests.reference.features import as_list, batch_norm, conv


def ofd_reference(student_features, teacher_features, state):
    students, teachers = as_list(student_features), as_list(teacher_features)
    values = [0.0] * len(students[0])
    for tap, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
        bridged = batch_norm(conv(student, state[f"bridges.{tap}.project.0.weight"]), state, f"bridges.{tap}.project.1")
        margins = state[f"margins_{tap}"]
        weight = 0.5 ** (len(students) - 1 - tap)
        for sample in range(len(values)):
            for c in range(teacher.shape[1]):
                for s, t in zip(bridged[sample, c].ravel(), teacher[sample, c].ravel(), strict=True):
                    target = t if t >= margins[c] else margins[c]
                    if not (s <= target <= 0):
                        values[sample] += weight * (target - s) ** 2
    return values
