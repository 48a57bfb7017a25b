"""Maximum classifier discrepancy: Saito et al. (2018), equation 9 with the distance of equation 1, on the target's samples."""

from tests.reference.domains import mean, softmax, split
from tests.reference.geometry import dot, pooled


def mcd_reference(student_features, student_logits, domains, state):
    weight, bias = state["second.weight"].reshape(len(state["second.bias"]), -1), state["second.bias"]
    second = [[dot(row, vector) + offset for row, offset in zip(weight, bias, strict=True)] for vector in pooled(student_features)]
    pairs = split(list(zip(student_logits, second, strict=True)), domains)[1]
    gaps = [mean([abs(p - q) for p, q in zip(softmax(one), softmax(other), strict=True)]) for one, other in pairs]
    return mean(gaps) if gaps else 0.0
