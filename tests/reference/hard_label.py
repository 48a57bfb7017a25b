"""The teacher's decision as label: Touvron et al. (2021), equation 3, with label smoothing as in their comparison."""

import math

from tests.reference.distributions import predictions


def hard_label_reference(student_logits, teacher_logits, labels, smoothing):
    values = []
    for student, teacher in zip(student_logits, teacher_logits, strict=True):
        q = predictions(student, labels, 1.0)
        if labels.dtype.kind == "f":
            value = 0.0
            for c, (yes, no) in enumerate(q):
                target = (1 - smoothing) * (1.0 if teacher[c] > 0 else 0.0) + smoothing / 2
                value -= target * math.log(yes) + (1 - target) * math.log(no)
        else:
            best = max(range(len(teacher)), key=lambda c: teacher[c])
            target = [(1 - smoothing) * (c == best) + smoothing / len(teacher) for c in range(len(teacher))]
            value = -sum(target[c] * math.log(q[0][c]) for c in range(len(teacher)))
        values.append(value)
    return values
