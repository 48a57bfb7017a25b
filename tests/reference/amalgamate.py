"""The join of class sets: the derivative of its objective, set to zero by a root finder, one sample at a time."""

import math

import numpy as np
from scipy.optimize import root

from tests.reference.distributions import softmax


def own(logits, temperature):
    """p_k over all classes, 0 for those that a teacher doesn't know, and which it knows."""
    known = [value > -65504 for value in logits]
    shares = iter(softmax([value / temperature for value, there in zip(logits, known, strict=True) if there]))
    return [next(shares) if there else 0.0 for there in known], known


def evidence_of(rows, evidence):
    if evidence == "equal":
        return [1 / len(rows)] * len(rows)
    energies = [math.log(sum(math.exp(max(value - max(row), -700)) for value in row if value > -65504)) + max(row) for row in rows]
    return softmax(energies)


def join_reference(rows, temperature, evidence, mixture):
    """q of one sample: rows are its teachers' logits."""
    ps, sets = zip(*(own(row, temperature) for row in rows), strict=True)
    weights = evidence_of(rows, evidence)
    count, classes = len(rows), len(rows[0])
    m = [sum(w * p[c] for w, p in zip(weights, ps, strict=True)) for c in range(classes)]
    asked = [c for c in range(classes) if any(known[c] for known in sets)]

    def derivative(u):
        """Of 1/K sum_k KL(p_k || q(.|C_k)) + mixture KL(m || q) by log q_c, whose sum is 0: the first class's place holds the scale."""
        q = dict(zip(asked, np.exp(u) / np.exp(u).sum(), strict=True))
        found = []
        for c in asked:
            slope = mixture * (q[c] - m[c])
            for p, known in zip(ps, sets, strict=True):
                if known[c]:
                    slope += (q[c] / sum(q[other] for other in asked if known[other]) - p[c]) / count
            found.append(slope)
        return [u[0], *found[1:]]

    start = np.log([max(m[c], 1e-12) for c in asked])
    solved = root(derivative, start - start[0], method="hybr", tol=1e-14)
    q = np.zeros(classes)
    q[asked] = np.exp(solved.x) / np.exp(solved.x).sum()
    return q


def amalgamate_reference(student_logits, teachers_logits, temperature, evidence, mixture):
    values = []
    for sample, student in enumerate(student_logits):
        q = join_reference([logits[sample] for logits in teachers_logits], temperature, evidence, mixture)
        said = softmax([value / temperature for value in student])
        values.append(temperature**2 * sum(p * math.log(p / s) for p, s in zip(q, said, strict=True) if p > 0))
    return values
