"""ReviewKD: Chen et al. (2021), equation 5 and figures 3 and 4, as in the authors' framework.py."""

import numpy as np

from tests.reference.features import as_list, batch_norm, conv, mean_pool, nearest


def context_loss(student, teacher):
    def mean_square(one, other):
        gaps = [float(a - b) ** 2 for a, b in zip(one.ravel(), other.ravel(), strict=True)]
        return sum(gaps) / len(gaps)

    total, weight, weights = mean_square(student, teacher), 1.0, 1.0
    for side in (4, 2, 1):
        if side >= min(student.shape[2:]):
            continue
        weight /= 2
        total += weight * mean_square(mean_pool(student, side, side), mean_pool(teacher, side, side))
        weights += weight
    return total / weights


def fused_features(students, teachers, state):
    deeper, outputs = None, []
    for number in reversed(range(len(students))):
        name = f"fusions.{number}"
        x = batch_norm(conv(students[number], state[f"{name}.reduce.0.weight"]), state, f"{name}.reduce.1")
        if deeper is not None:
            y = nearest(deeper, *x.shape[2:])
            z = conv(np.concatenate([x, y], axis=1), state[f"{name}.attention.weight"], state[f"{name}.attention.bias"])
            z = 1 / (1 + np.exp(-z))
            x = x * z[:, :1] + y * z[:, 1:]
        deeper = nearest(x, *teachers[number].shape[2:])
        out = conv(deeper, state[f"{name}.expand.0.weight"], padding=1)
        outputs.append((batch_norm(out, state, f"{name}.expand.1"), teachers[number]))
    return outputs


def review_reference(student_features, teacher_features, state):
    outputs = fused_features(as_list(student_features), as_list(teacher_features), state)
    samples = range(len(outputs[0][0]))
    return [sum(context_loss(out[i : i + 1], teacher[i : i + 1]) for out, teacher in outputs) for i in samples]
