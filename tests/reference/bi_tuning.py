"""Bi-Tuning: Zhong et al. (2020): categorical contrastive loss and contrastive cross-entropy over one's own key and the memory."""

import math

from tests.reference.geometry import dot, length, pooled


def to_unit(values):
    size = length(values)
    return [value / size for value in values]


def contrast(anchor, keys, labels, label, temperature):
    """-mean over keys of the label of log softmax of anchor . key / temperature."""
    exponentials = [math.exp(dot(anchor, key) / temperature) for key in keys]
    total = sum(exponentials)
    logs = [math.log(value / total) for value, own in zip(exponentials, labels, strict=True) if own == label]
    return -sum(logs) / len(logs)


def bi_tuning_reference(student_features, second_student_features, labels, parameters, state, temperature, queue):
    own, keys = pooled(student_features), pooled(second_student_features)
    weights, biases = state["projector.weight"], state["projector.bias"]

    def project(feature):
        return to_unit([dot(weight, feature) + bias for weight, bias in zip(weights, biases, strict=True)])

    heads = [to_unit([*weight, bias]) for weight, bias in zip(parameters["linear.weight"], parameters["linear.bias"], strict=True)]
    remembered = [(int(label), place) for label in range(len(heads)) for place in range(queue) if place < state["filled"][label]]
    values = []
    for feature, key, label in zip(own, keys, labels, strict=True):
        label = int(label)
        classes = [label, *(of for of, _ in remembered)]
        projections = [project(key), *(state["projections"][of * queue + place] for of, place in remembered)]
        features = [to_unit([*feature, 1.0]), *(state["features"][of * queue + place] for of, place in remembered)]
        instance = contrast(project(feature), projections, classes, label, temperature)
        values.append(instance + contrast(heads[label], features, classes, label, temperature))
    return values
