"""Cross-entropy with label smoothing (Szegedy et al., 2016, section 7) and a weight per class."""

import math

from tests.reference.distributions import softmax


def cross_entropy_reference(student_logits, labels, label_probabilities, smoothing, class_weights):
    values = []
    for sample, student in enumerate(student_logits):
        q, classes = softmax(student), len(student)
        if label_probabilities is not None:
            mixed = label_probabilities[sample]
        else:
            mixed = [1.0 if c == labels[sample] else 0.0 for c in range(classes)]
        value = 0.0
        for label in range(classes):  # the expectation of the weighted loss over what the label may be
            weight = class_weights[label] if class_weights else 1.0
            target = [(1 - smoothing) * (c == label) + smoothing / classes for c in range(classes)]
            value -= mixed[label] * weight * sum(target[c] * math.log(q[c]) for c in range(classes))
        values.append(value)
    return values
