"""Binary cross-entropy, one term per class."""

import math

from tests.reference.distributions import sigmoid


def bce_reference(student_logits, labels, smoothing, positive_weights, over):
    values = []
    for student, row in zip(student_logits, labels, strict=True):
        terms = []
        for c, label in enumerate(row):
            if math.isnan(label):
                continue
            target = (1 - smoothing) * label + smoothing / 2
            weight = positive_weights[c] if positive_weights else 1.0
            terms.append(-weight * target * math.log(sigmoid(student[c])) - (1 - target) * math.log(sigmoid(-student[c])))
        values.append(sum(terms) / (len(terms) if over == "mean" and terms else 1))
    return values
