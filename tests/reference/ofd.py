"""OFD: Heo et al. (2019), equations 3, 4 and 6, with margins by equation 5 of a normal distribution, integrated."""

import math

from tests.reference.features import as_list, batch_norm, conv, resize


def batchnorm_margin(weight, bias, steps=20000):
    """E[x | x < 0] of a normal distribution, as a sum over slices below 0; -3 deviations where they hold at most 0.001."""
    deviation = abs(weight)
    lowest = min(0.0, bias) - 12 * deviation
    slice_ = -lowest / steps
    held = moment = 0.0
    for step in range(steps):
        x = lowest + (step + 0.5) * slice_
        density = math.exp(-(((x - bias) / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi))
        held, moment = held + density * slice_, moment + x * density * slice_
    return moment / held if held > 0.001 else -3 * deviation


def ofd_reference(student_features, teacher_features, state):
    students, teachers = as_list(student_features), as_list(teacher_features)
    values = [0.0] * len(students[0])
    for tap, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
        bridged = batch_norm(conv(student, state[f"bridges.{tap}.project.0.weight"]), state, f"bridges.{tap}.project.1")
        margins = state[f"margins_{tap}"]
        bridged = resize(bridged, *teacher.shape[2:])
        weight = 0.5 ** (len(students) - 1 - tap)
        for sample in range(len(values)):
            for c in range(teacher.shape[1]):
                for s, t in zip(bridged[sample, c].ravel(), teacher[sample, c].ravel(), strict=True):
                    target = t if t >= margins[c] else margins[c]
                    if not (s <= target <= 0):
                        values[sample] += weight * (target - s) ** 2
    return values
