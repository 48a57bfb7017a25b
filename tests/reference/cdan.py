"""Conditional domain-adversarial training: Long et al. (2018), equations 3 to 9."""

import math

from tests.reference.domains import entropy_of, network, sigmoid, softmax, split
from tests.reference.geometry import dot, pooled


def joint(feature, prediction, state):
    if "feature_projection" in state:
        projected = [dot(feature, column) for column in state["feature_projection"].T]
        conditions = [dot(prediction, column) for column in state["prediction_projection"].T]
        return [a * b for a, b in zip(projected, conditions, strict=True)]
    return [value * share for value in feature for share in prediction]


def cdan_reference(student_features, student_logits, domains, state, entropy):
    predictions = [softmax(logits) for logits in student_logits]
    sides = split(list(zip(pooled(student_features), predictions, strict=True)), domains)
    value = 0.0
    for is_target, samples in enumerate(sides):
        weights = [1 + math.exp(-entropy_of(prediction)) if entropy else 1.0 for _, prediction in samples]
        for weight, (feature, prediction) in zip(weights, samples, strict=True):
            d = sigmoid(network(joint(feature, prediction, state), state, "discriminator")[0])
            value += 0.5 * weight / sum(weights) * -math.log(1 - d if is_target else d)
    return value
