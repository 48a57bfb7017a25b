"""Domain-adversarial training: Ganin et al. (2016), equation 9's domain losses, each domain's mean halved."""

import math

from tests.reference.domains import mean, network, sigmoid, split
from tests.reference.geometry import pooled


def dann_reference(student_features, domains, state):
    source, target = split(pooled(student_features), domains)
    on_source = mean([-math.log(sigmoid(network(row, state, "discriminator")[0])) for row in source])
    on_target = mean([-math.log(1 - sigmoid(network(row, state, "discriminator")[0])) for row in target])
    return 0.5 * (on_source + on_target)
