"""What references of domain objectives share: splitting a batch, softmax, entropy, a small network layer by layer."""

import math

from tests.reference.geometry import dot


def split(rows, domains):
    """The rows of the source (0) and of the target (1)."""
    return [row for row, domain in zip(rows, domains, strict=True) if domain == 0], [
        row for row, domain in zip(rows, domains, strict=True) if domain == 1
    ]


def softmax(logits, temperature=1.0):
    exponentials = [math.exp(logit / temperature) for logit in logits]
    return [value / sum(exponentials) for value in exponentials]


def entropy_of(p):
    return -sum(value * math.log(value) for value in p)


def mean(values):
    return sum(values) / len(values)


def network(values, state, name):
    """Linear layers with ReLUs between them, from the weights in the objective's state."""
    numbers = sorted({int(key.split(".")[1]) for key in state if key.startswith(f"{name}.")})
    for number in numbers:
        weight, bias = state[f"{name}.{number}.weight"], state[f"{name}.{number}.bias"]
        values = [dot(row, values) + offset for row, offset in zip(weight, bias, strict=True)]
        if number != numbers[-1]:
            values = [max(value, 0.0) for value in values]
    return values


def sigmoid(value):
    return 1 / (1 + math.exp(-value))
