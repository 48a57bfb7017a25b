"""Co-Tuning: You et al. (2020), equation 3's second term: cross-entropy between p(y_s | y_t) and the source head's softmax."""

import math

from tests.reference.geometry import dot, pooled


def softmax(values):
    top = max(values)
    exponentials = [math.exp(value - top) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def relationship_reference(source_logits, labels, classes, temperature=1.0):
    """p(source class | class): the mean softmax of the samples of each class."""
    rows = []
    for label in range(classes):
        of_class = [softmax([value / temperature for value in row]) for row, own in zip(source_logits, labels, strict=True) if own == label]
        sources = len(source_logits[0])
        rows.append([sum(column) / len(of_class) for column in zip(*of_class, strict=True)] if of_class else [1 / sources] * sources)
    return rows


def co_tuning_reference(student_features, labels, state):
    values = []
    for feature, label in zip(pooled(student_features), labels, strict=True):
        weights, biases = state["source_head.weight"], state["source_head.bias"]
        logits = [dot(weight, feature) + bias for weight, bias in zip(weights, biases, strict=True)]
        p = softmax(logits)
        values.append(-sum(wanted * math.log(own) for wanted, own in zip(state["relationship"][int(label)], p, strict=True)))
    return values
