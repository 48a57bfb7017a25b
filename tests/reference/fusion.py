"""Rules that fuse features, as slow float64 loops over samples, sources and numbers."""

import math

from tests.reference.distributions import softmax


def linear(row, weight, bias=None):
    return [
        sum(float(w) * x for w, x in zip(weights, row, strict=True)) + (0.0 if bias is None else float(bias[o]))
        for o, weights in enumerate(weight)
    ]


def gelu(row):
    return [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in row]


def project(row, state, source):
    name = f"projections.{source}"
    if f"{name}.weight" in state:
        return linear(row, state[f"{name}.weight"], state[f"{name}.bias"])
    if f"{name}.0.weight" in state:
        return linear(
            gelu(linear(row, state[f"{name}.0.weight"], state[f"{name}.0.bias"])), state[f"{name}.2.weight"], state[f"{name}.2.bias"]
        )
    return [float(x) for x in row]


def phi(row, activation):
    return {"none": list, "relu": lambda values: [max(0.0, x) for x in values], "gelu": gelu}[activation](row)


def rows_of(features, state):
    """Per sample, the sources' projected features."""
    for sample in range(len(features[0])):
        yield [project(feature[sample], state, source) for source, feature in enumerate(features)]


def concat_reference(features, state, activation):
    return [phi([x for row in rows for x in row], activation) for rows in rows_of(features, state)]


def weighted_sum_reference(features, state, activation, weights):
    scores = [float(score) for score in state["scores"]]
    alpha = [len(scores) * share for share in softmax(scores)] if weights == "softmax" else scores
    return [
        phi([sum(a * x for a, x in zip(alpha, column, strict=True)) for column in zip(*rows, strict=True)], activation)
        for rows in rows_of(features, state)
    ]


def gated_sum_reference(features, state, activation):
    found = []
    for rows in rows_of(features, state):
        gates = softmax(linear([x for row in rows for x in row], state["gate.weight"], state["gate.bias"]))
        found.append(
            phi([len(rows) * sum(g * x for g, x in zip(gates, column, strict=True)) for column in zip(*rows, strict=True)], activation)
        )
    return found


def attention_reference(features, state, activation):
    found = []
    queries, marks = state["queries"], state["marks"]
    wide = len(queries[0])
    for rows in rows_of(features, state):
        tokens = [[x + float(mark) for x, mark in zip(row, marks[source], strict=True)] for source, row in enumerate(rows)]
        keys, values = ([linear(token, state[f"{name}.weight"]) for token in tokens] for name in ("keys", "values"))
        fused = []
        for head, query in enumerate(queries):
            part = slice(head * wide, (head + 1) * wide)
            weights = softmax([sum(float(q) * k for q, k in zip(query, key[part], strict=True)) / math.sqrt(wide) for key in keys])
            fused += [
                len(rows) * sum(a * x for a, x in zip(weights, column, strict=True))
                for column in zip(*(value[part] for value in values), strict=True)
            ]
        found.append(phi(fused, activation))
    return found
