"""AB: Heo et al. (2019), equation 5, with the authors' weights of the layers."""

from tests.reference.features import as_list, batch_norm, conv, resize


def ab_reference(student_features, teacher_features, state, margin):
    students, teachers = as_list(student_features), as_list(teacher_features)
    values = [0.0] * len(students[0])
    for tap, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
        bridged = student
        if f"bridges.{tap}.project.0.weight" in state:  # the authors have none where the channels agree
            bridged = batch_norm(conv(student, state[f"bridges.{tap}.project.0.weight"]), state, f"bridges.{tap}.project.1")
        bridged = resize(bridged, *teacher.shape[2:])
        weight = 0.5 ** (len(students) - 1 - tap)
        for sample in range(len(values)):
            for s, t in zip(bridged[sample].ravel(), teacher[sample].ravel(), strict=True):
                if t > 0 and s <= margin:
                    values[sample] += weight * (s - margin) ** 2
                if t <= 0 and s > -margin:
                    values[sample] += weight * (s + margin) ** 2
    return values
