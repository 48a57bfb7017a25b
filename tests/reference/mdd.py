"""Margin disparity discrepancy: Zhang et al. (2019), equations 29 and 30, with the sign that the adversary descends."""

import math

from tests.reference.domains import mean, network, softmax, split
from tests.reference.geometry import pooled


def mdd_reference(student_features, student_logits, domains, state, margin):
    samples = []
    for row, logits in zip(pooled(student_features), student_logits, strict=True):
        predicted = max(range(len(logits)), key=lambda c: logits[c])
        samples.append(softmax(network(row, state, "adversary"))[predicted])
    source, target = split(samples, domains)
    return -margin * mean([math.log(q) for q in source]) - mean([math.log(1 - q) for q in target])
