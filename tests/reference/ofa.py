"""OFA-KD: Hao et al. (2023), equation 6 and the authors' code, class by class; exits as loops over their layers."""

import math

import numpy as np

from tests.reference.distributions import softmax
from tests.reference.features import as_list, batch_norm


def grouped(maps, weight, stride, padding):
    """Convolution in which every output channel sees one input channel."""
    padded = np.pad(maps, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    rows = (padded.shape[2] - weight.shape[2]) // stride + 1
    columns = (padded.shape[3] - weight.shape[3]) // stride + 1
    out = np.zeros((*maps.shape[:2], rows, columns))
    for c in range(maps.shape[1]):
        for i in range(rows):
            for j in range(columns):
                patch = padded[:, c, i * stride : i * stride + weight.shape[2], j * stride : j * stride + weight.shape[3]]
                out[:, c, i, j] = (patch * weight[c, 0]).sum((1, 2))
    return out


def leave(feature, state, number, halvings):
    at = f"exits.{number}"
    place = 0
    if halvings == 0 and feature.ndim == 4:
        feature = np.einsum("oc,bchw->bohw", state[f"{at}.0.weight"][:, :, 0, 0], feature) + state[f"{at}.0.bias"][:, None, None]
        place = 1
    for _ in range(halvings):
        for stride in (2, 1):
            feature = grouped(feature, state[f"{at}.{place}.weight"], stride, 1)
            feature = np.einsum("oc,bchw->bohw", state[f"{at}.{place + 1}.weight"][:, :, 0, 0], feature)
            feature = np.maximum(batch_norm(feature, state, f"{at}.{place + 2}"), 0)
            place += 4
    if feature.ndim == 4:
        feature = feature.mean((2, 3))
        place += 2
    return feature @ state[f"{at}.{place}.weight"].T + state[f"{at}.{place}.bias"]


def one_exit(student, teacher, label, epsilon, temperature, form):
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    value = 0.0
    for c in range(len(p)):
        target = 1 if c == label else 0
        if form == "code":
            value -= ((p[c] + target) ** epsilon - target) * math.log(q[c])
        else:
            value -= ((1 + p[c]) ** epsilon if target else p[c]) * math.log(q[c])
    return value


def ofa_reference(student_logits, student_features, teacher_logits, labels, state, epsilon, temperature, own_outputs, form):
    features = as_list(student_features)
    exits = [leave(feature, state, number, len(features) - 1 - number) for number, feature in enumerate(features)]
    exits += [student_logits] if own_outputs else []
    return [
        sum(one_exit(logits[i], teacher_logits[i], labels[i], epsilon, temperature, form) for logits in exits)
        for i in range(len(student_logits))
    ]
